"""``toolkit doctor``: what this machine can run, and what is missing."""

import click

from toolkit.cli.console import emit_json, out


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one machine-readable object.")
def command(as_json: bool) -> int:
    """Show what this machine can run, and what is missing.

    What is missing is shown with the line that installs it. The exit code is 1 when something that is
    installed can't work (packages that overwrite each other, a provider that doesn't load), else 0.
    """
    from engines.builders.capabilities import CAPABILITIES, capability_lines
    from toolkit.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        options = {name: capability.to_json() for name, capability in CAPABILITIES.items()}
        emit_json({**diagnosis.to_json(), "build_options": options})
        return 0 if diagnosis.healthy else 1
    target = diagnosis.target
    out(f"machine    {target.platform}, Python {target.python}, {target.cpu}, {target.cores} cores")
    for gpu in target.gpus:
        memory = f", {gpu.memory / 2**30:.0f} GiB" if gpu.memory else ""
        out(f"GPU {gpu.index}      {gpu.name}, compute capability {gpu.compute_capability}{memory}")
    if not target.gpus:
        out("GPU        none")
    if target.driver:
        out(f"driver     {target.driver}")
    out(f"libraries  {', '.join(f'{name} {version}' for name, version in target.libraries.items()) or 'none'}")
    loading = [probe.name for probe in target.providers if probe.loads]
    if target.providers:
        out(f"providers  {', '.join(loading) or 'none'} (of ONNX Runtime: those that really load)")
    out()
    width = max(len(ability.title) for ability in diagnosis.abilities)
    for ability in diagnosis.abilities:
        mark = click.style("yes", fg="green") if ability.works else click.style("no ", fg="yellow")
        out(f"{mark}  {ability.title:{width}}  {ability.detail}")
        if ability.remedy:
            out(f"     {'':{width}}  {ability.remedy}")
    out("\nbuild options, and who honours them")
    for line in capability_lines():
        out(line)
    for problem in diagnosis.problems:
        out(click.style("problem: ", fg="red", bold=True) + problem)
    return 0 if diagnosis.healthy else 1
