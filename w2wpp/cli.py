"""The command `w2wpp`: one person or one space at a time; `make` and `dvc` run the pipeline.

Libraries that take seconds to load are imported within the commands, so that `--help` answers at once.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from w2wpp.files.errors import ArgumentError, InputError

if TYPE_CHECKING:
    from PIL import Image

    from w2wpp.api.from_photo import Inversion
    from w2wpp.api.person import Lora, Person
    from w2wpp.api.settings import Settings

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="People as LoRAs: invert a photo, sample, blend, draw. Works on the shipped world, in data/ of "
    "the current directory, or on a base model and a space of your choice.",
)

Format = Literal["diffusers", "peft", "kohya"]
Dtype = Literal["fp32", "fp16"]
STEPS = 7  # pictures on the sheet of a blend
EARLIEST = 1000  # timestep that is noisier than all
FAR = 3  # in units of the mean distance of the prior's people from the mean; inversions of held-out people lie at 2

SpaceOption = Annotated[str, typer.Option("--space", help="A space: its name (pca, linear, vae) or its file.")]
BaseOption = Annotated[str, typer.Option("--base", help="The base model: a folder, or a name on the Hugging Face Hub.")]
ParamsOption = Annotated[
    Path | None,
    typer.Option(
        "--params",
        help="YAML with settings of search and drawing, such as profiles/sd15.yaml; if not given, params.yaml, "
        "where there is one.",
    ),
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="The LoRA to write; of peft, a folder.")]
SheetOption = Annotated[Path | None, typer.Option("--sheet", help="The PNG to write; if not given, beside the LoRA.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Whose LoRA files to write.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Precision of the LoRA.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed.")]
SeedsOption = Annotated[int, typer.Option("--seeds", min=1, help="Pictures per person.")]
PromptOption = Annotated[str, typer.Option("--prompt", help="Prompt of the pictures; `sks person` is the person.")]
LoraArgument = Annotated[Path, typer.Argument(metavar="LORA", help="A LoRA file.", show_default=False)]

PROMPT, BASE, SPACE = "a photo of sks person", "data/base", "vae"


@app.command()
def invert(
    photos: Annotated[
        list[Path],
        typer.Argument(
            metavar="PHOTO", show_default=False, help="A photo, or several of one person: JPEG, PNG or WebP."
        ),
    ],
    out: OutOption = None,
    space: SpaceOption = SPACE,
    base: BaseOption = BASE,
    encoder: Annotated[
        str,
        typer.Option(
            help="Photo encoder that guesses where the search starts: its file; none: "
            "at the mean; auto: the one fitted for the space."
        ),
    ] = "auto",
    prompt: Annotated[
        str | None, typer.Option(help="What the photo shows, such as `a photo of sks person, smiling`.")
    ] = None,
    framing: Annotated[
        Literal["auto", "rendered", "ffhq", "none"],
        typer.Option(help="How training photos are framed; none: the photo is framed so already."),
    ] = "auto",
    faces: Annotated[str | None, typer.Option(help="Face finder: dlib or insightface:<pack name>.")] = None,
    largest: Annotated[bool, typer.Option("--largest", help="Of several faces of one size, take the largest.")] = False,
    refine: Annotated[
        int | None, typer.Option(min=0, help="Steps beyond the space: closer to the photo, in all that it shows.")
    ] = None,
    restore: Annotated[
        bool,
        typer.Option("--restore", help="The picture is a drawing, a painting, of low resolution or partly covered."),
    ] = False,
    sheet: SheetOption = None,
    seeds: SeedsOption = 4,
    seed: SeedOption = 0,
    format: FormatOption = "diffusers",
    dtype: DtypeOption = "fp32",
    params: ParamsOption = None,
) -> None:
    """Invert a photo into a space; write a LoRA and a sheet of pictures."""
    settings = _settings(params)
    from PIL import Image

    from w2wpp.api import from_photo, person

    out = out or Path(photos[0].name).with_suffix("" if format == "peft" else ".safetensors")
    sheet = _sheet(sheet, out, photos)
    from_photo.check_photos(photos)  # before the base model is read, which takes seconds
    search = settings.search.model_copy(update={"prompt": prompt} if prompt else {})
    pipe = person.load_base(base, settings.drawing.dtype)
    options = from_photo.PhotoOptions(None if framing == "auto" else framing, faces or settings.faces, largest, restore)
    found = from_photo.invert(
        photos, space, pipe, None if encoder == "none" else encoder, search, options, seed, _label("search"), refine
    )
    guess, result = person.draw([found.guess, found], search.prompt, seeds, pipe, settings.drawing)
    found.save(out, format, dtype)
    _write_sheet(
        sheet,
        [
            ("photo, as aligned", [Image.fromarray(each.pixels) for each in found.record.photos]),
            ("guess", [Image.fromarray(each) for each in guess.numpy()]),
            ("result", [Image.fromarray(each) for each in result.numpy()]),
        ],
    )
    steps = search.refine.steps if refine is None else refine
    for line in _story(found, photos, (search.steps, steps), space, base):
        print(line)
    print(f"wrote   {out} ({format}, {dtype}) and {sheet}")


def _story(found: "Inversion", photos: list[Path], steps: tuple[int, int], space: str, base: str) -> list[str]:
    """What was found, in four lines; `steps` in the space and beyond it."""
    record, first = found.record, found.record.photos[0]
    several = f" and {len(photos) - 1} more" if len(photos) > 1 else ""
    seen = {None: "as it is", 1: "one face"}.get(first.faces, f"the largest of {first.faces} faces")
    placed = "" if first.faces is None else ", framed like training photos already" if first.whole else ", aligned"
    guessed = "the mean of the space" if not record.guess.any() else "the photo encoder's guess"
    far = (
        " (far from everybody: a photo unlike those of training)"
        if record.z.norm() > FAR * len(record.z) ** 0.5
        else ""
    )
    refined = f", then {steps[1]} in all weights," if steps[1] else ""
    return [
        f"photo   {photos[0]}{several}, {first.size[0]} x {first.size[1]} pixels: {seen}{placed}",
        f"space   {space}, {found.space.latent_dim} dimensions, of {base}",
        f"start   {guessed}; the search moved it by {(record.z - record.guess).norm():.1f}, to {record.z.norm():.1f} "
        f"from the mean{far}",
        f"search  {steps[0]} steps{refined} in {record.seconds:.1f} s; denoising loss {record.losses[0]:.3f} at the "
        f"start, {record.losses[-1]:.3f} in the end",
    ]


@app.command()
def sample(
    out: OutOption = None,
    people: Annotated[int, typer.Option("--people", "-n", min=1, help="People.")] = 1,
    space: SpaceOption = SPACE,
    base: BaseOption = BASE,
    prompt: PromptOption = PROMPT,
    sheet: SheetOption = None,
    seeds: SeedsOption = 4,
    seed: SeedOption = 0,
    format: FormatOption = "diffusers",
    dtype: DtypeOption = "fp32",
    params: ParamsOption = None,
) -> None:
    """Sample people who never existed; write their LoRAs and a sheet."""
    settings = _settings(params)
    from w2wpp.api import person

    out = out or Path("sample" if format == "peft" else "sample.safetensors")
    sheet, loaded = _sheet(sheet, out), person.load_space(space)
    sampled = [person.sample(loaded, seed + number) for number in range(people)]
    files = [out] if people == 1 else [out.with_stem(f"{out.stem}-{seed + number}") for number in range(people)]
    _draw(sheet, [(file.stem, each) for file, each in zip(files, sampled, strict=True)], prompt, seeds, base, settings)
    for file, each in zip(files, sampled, strict=True):
        each.save(file, format, dtype)
    print(f"wrote {', '.join(map(str, files))} and {sheet}")


@app.command()
def blend(
    first: LoraArgument,
    second: LoraArgument,
    out: OutOption = None,
    share: Annotated[float, typer.Option(help="Of the second person: 0 to 1, or beyond.")] = 0.5,
    space: SpaceOption = SPACE,
    base: BaseOption = BASE,
    prompt: PromptOption = PROMPT,
    sheet: SheetOption = None,
    format: FormatOption = "diffusers",
    dtype: DtypeOption = "fp32",
    params: ParamsOption = None,
) -> None:
    """Blend two people; write a LoRA and a sheet of the path between them."""
    settings = _settings(params)
    from w2wpp.api import person

    out = out or Path("blend" if format == "peft" else "blend.safetensors")
    sheet, loaded = _sheet(sheet, out), person.load_space(space)
    start, end = (person.load_lora(each, loaded) for each in (first, second))
    steps = [number / (STEPS - 1) for number in range(STEPS)]
    titles = [first.stem, *(f"{step:.2f}" for step in steps[1:-1]), second.stem]
    way = [(title, person.blend(start, end, step)) for title, step in zip(titles, steps, strict=True)]
    _draw(sheet, way, prompt, 1, base, settings)
    person.blend(start, end, share).save(out, format, dtype)
    print(f"wrote {out} and {sheet}")


@app.command()
def edit(
    lora: LoraArgument,
    changes: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="LABEL=NUMBER",
            show_default=False,
            help="A label and how far, in standard deviations of the zoo, such as glasses=4 or age=-3; repeatable.",
        ),
    ],
    out: OutOption = None,
    hold: Annotated[
        str, typer.Option(help="Labels that stay as they are: all, none, or some, such as sex,age.")
    ] = "all",
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV of labels of zoo people to learn directions from; if not given, those of the pipeline."),
    ] = None,
    below: Annotated[
        int, typer.Option(min=1, help="On the sheet, edit below this timestep alone: 700 or so changes details.")
    ] = 1000,
    space: SpaceOption = SPACE,
    base: BaseOption = BASE,
    prompt: PromptOption = PROMPT,
    sheet: SheetOption = None,
    seeds: SeedsOption = 4,
    format: FormatOption = "diffusers",
    dtype: DtypeOption = "fp32",
    params: ParamsOption = None,
) -> None:
    """Change attributes of a person: a LoRA, and a sheet of the person before and after."""
    settings, wanted = _settings(params), dict(_change(each) for each in changes)
    from w2wpp.api import editing, person

    out = out or Path("edited" if format == "peft" else "edited.safetensors")
    sheet, loaded = _sheet(sheet, out), person.load_space(space)
    directions = editing.learn_directions(loaded, labels) if labels else "auto"
    start, held = person.load_lora(lora, loaded), {"all": True, "none": False}.get(hold, hold.split(","))
    after = start.edit(wanted, held, directions)
    titles = [lora.stem, ", ".join(f"{name} {by:+g}" for name, by in wanted.items())]
    people = list(zip(titles, (start, after), strict=True))
    _draw(sheet, people, prompt, seeds, base, settings, (start, below) if below < EARLIEST else None)
    after.save(out, format, dtype)
    print(f"wrote {out} and {sheet}")


def _change(text: str) -> tuple[str, float]:
    """A label and a number, from text such as age=1.5."""
    name, _, number = text.rpartition("=")
    try:
        return name, float(number)
    except ValueError:
        raise InputError("--set", None, f"{text!r} is no label and number", "Write it as age=1.5") from None


@app.command()
def draw(
    lora: LoraArgument,
    prompt: Annotated[str, typer.Argument(help="`sks person` in it is the person.")] = PROMPT,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The PNG to write; if not given, named as the LoRA.")
    ] = None,
    seeds: SeedsOption = 4,
    seed: Annotated[int, typer.Option(min=0, help="The first picture's seed.")] = 0,
    base: BaseOption = BASE,
    space: SpaceOption = SPACE,
    params: ParamsOption = None,
) -> None:
    """Draw pictures of a LoRA's person."""
    settings = _settings(params)
    from w2wpp.api import person

    out, pipe = out or Path(lora.name).with_suffix(".png"), person.load_base(base, settings.drawing.dtype)
    pictures = _lora(lora, space).draw(prompt, range(seed, seed + seeds), pipe, settings.drawing)
    _write_sheet(out, [(prompt, pictures)])
    print(f"wrote {out}")


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="A LoRA, or a space.", show_default=False)],
    space: SpaceOption = SPACE,
    base: BaseOption = BASE,
) -> None:
    """Describe a LoRA or a space, and tell what it fits."""
    _prepare()
    from w2wpp.api.describe import description

    for key, text in description(file, space, base).items():
        print(f"{key:8}{text}")


@app.command()
def export(
    lora: LoraArgument,
    out: Annotated[Path, typer.Option("--out", "-o", show_default=False, help="The file to write; of peft, a folder.")],
    format: FormatOption = "diffusers",
    dtype: DtypeOption = "fp16",
    space: SpaceOption = SPACE,
) -> None:
    """Write a LoRA for diffusers, for peft, or for tools that read kohya's keys."""
    _prepare()
    _lora(lora, space).save(out, format, dtype)
    print(f"wrote {out} ({format}, {dtype})")


@app.command()
def explore(
    spaces: Annotated[
        list[str] | None,
        typer.Option(
            "--space", show_default=False, help="A space, repeatable; if not given, all that are in data/spaces."
        ),
    ] = None,
    base: BaseOption = BASE,
    host: Annotated[str, typer.Option(help="Who may see the page: 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, show_default=False, help="If not given, the first free from 7860.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    params: ParamsOption = None,
) -> None:
    """Open a page to sample, blend, edit, invert and compare people."""
    settings = _settings(params)
    try:
        from w2wpp.explore.serve import serve
    except ImportError as error:
        raise InputError(
            "explore", None, f"{error.name} is not installed, and serves the page", "Run `pip install 'w2wpp[explore]'`"
        ) from error
    from w2wpp.explore.studio import open_studio

    serve(open_studio(base, spaces or None, settings), host, port, browser)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; a bad input prints one line on stderr and gives exit status 1."""
    try:
        app(args=arguments, prog_name="w2wpp")
    except ArgumentError as error:
        option = _OPTIONS.get(error.key or "") if error.owner is None else None
        where, key = (f"--{option}", None) if option else (error.where, error.key)
        sys.exit(f"error: {InputError(where, key, error.reason, error.remedy)}")
    except InputError as error:
        sys.exit(f"error: {error}")


_OPTIONS = {
    name: name
    for name in ("space", "base", "hold", "encoder", "faces", "framing", "format", "dtype", "seed", "seeds", "port")
} | {"attribute": "set"}


def _settings(params: Path | None) -> "Settings":
    _prepare()
    from w2wpp.api.settings import read_settings

    return read_settings(params)


def _prepare() -> None:
    from w2wpp.compute.runtime import prepare

    prepare()


def _label(text: str) -> str | None:
    """The label of a progress bar; None if stderr is no terminal."""
    return text if sys.stderr.isatty() else None


def _lora(path: Path, space: str) -> "Lora":
    """A LoRA as it is where it tells its layout, else as the space has it."""
    from w2wpp.api import person
    from w2wpp.ingest.exported import read_exported

    return person.load_lora(path) if read_exported(path) else person.load_lora(path, space)


def _sheet(sheet: Path | None, out: Path, photos: Sequence[Path] = ()) -> Path:
    sheet = sheet or out.with_name(f"{out.stem}-sheet.png")
    if any(sheet.resolve() == photo.resolve() for photo in photos):
        raise InputError("--sheet", None, f"{sheet} is the photo itself", "Give another file")
    return sheet


def _draw(
    sheet: Path,
    people: "list[tuple[str, Person]]",
    prompt: str,
    seeds: int,
    base: str,
    settings: "Settings",
    before: "tuple[Person, int] | None" = None,
) -> None:
    """Write a sheet of people, each under a title; for `before` see `person.draw`."""
    from PIL import Image

    from w2wpp.api import person

    pipe = person.load_base(base, settings.drawing.dtype)
    drawn = person.draw([each for _, each in people], prompt, seeds, pipe, settings.drawing, _label("pictures"), before)
    _write_sheet(
        sheet,
        [
            (title, [Image.fromarray(picture) for picture in pictures])
            for (title, _), pictures in zip(people, drawn.numpy(), strict=True)
        ],
    )


def _write_sheet(path: Path, columns: "list[tuple[str, list[Image.Image]]]") -> None:
    from w2wpp.api.strip import strip, write_png

    write_png(path, strip(columns))
