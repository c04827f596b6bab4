"""What ``--data`` takes, in words; apart from what opens it, which takes longer to import than a help to print."""

KINDS = (
    "'digits', an image folder (one folder a class), a folder of IDX or CIFAR files (or CIFAR's .tar.gz), an .npz, "
    "WebDataset shards ('shards/{000000..000009}.tar'), or a Hugging Face data set ('hf:NAME', or a saved folder)"
)
