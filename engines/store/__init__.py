"""The cache folder: what was built or measured before, found by what it was made from."""

from engines.store.entries import Entry as Entry
from engines.store.folder import cache_folder as cache_folder
from engines.store.store import KINDS as KINDS
from engines.store.store import Store as Store
from engines.store.store import open_store as open_store
from engines.store.store import runtime_cache as runtime_cache
from engines.store.store import save as save
from engines.store.store import timing_cache as timing_cache
