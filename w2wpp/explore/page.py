"""The page: what is on it, in Gradio's components. What its events do is `wiring`."""

from pathlib import Path

import gradio as gr

from w2wpp.explore import markup, take_home, visit
from w2wpp.explore.studio import MOST_SEEDS, Studio

HERE = Path(__file__).parent
MOST_SLIDERS = 40  # where directions come later; weights2weights has as many labels
FURTHEST = 7.0  # strength of an edit, in standard deviations of the zoo
PROMPTS = [
    "a photo of sks person",
    "a photo of sks person, smiling",
    "a photo of sks person, surprised",
    "a photo of sks person, on a blue background",
    "a photo of sks person, laughing, on a green background",
]
NOBODY = "nobody"
_DROP = """\
<label class="drop"><span>Drop photos of one person here, or choose them: JPEG, PNG, WebP</span>
<input type="file" multiple aria-label="Photos of one person"></label>
"""
_FONT = ("system-ui", "sans-serif")  # no request to a font host
THEME = gr.themes.Soft(font=_FONT, font_mono=("ui-monospace", "monospace"), spacing_size="sm", text_size="sm")
CSS = (HERE / "page.css").read_text()


class Page:
    """The components of the page.

    Attributes:
        blocks: Gradio's application, without events yet.
        studio: whose spaces, attributes and examples it offers.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        with gr.Blocks(title="w2w++ explorer", analytics_enabled=False, fill_width=True) as self.blocks:
            self._head()
            with gr.Row(elem_id="main"):
                with gr.Column(scale=5, min_width=600), gr.Tabs(elem_id="tabs"):
                    with gr.Tab("Sample"):
                        self._sample()
                    with gr.Tab("Blend"):
                        self._blend()
                    with gr.Tab("Edit"):
                        self._edit()
                    with gr.Tab("Invert"):
                        self._invert()
                    with gr.Tab("Compare"):
                        self._compare()
                with gr.Column(scale=2, min_width=330, elem_id="hand"):
                    self._hand()

    @property
    def choosers(self) -> list[gr.Dropdown]:
        """Where people of the shelf are chosen."""
        return [self.one, self.two, self.three, self.edited]

    def _head(self) -> None:
        spaces = list(self.studio.spaces)
        with gr.Row(elem_id="head"):
            gr.HTML("<h1>w2w++ explorer</h1>")
            self.space = gr.Radio(spaces, value=spaces[0], show_label=False, label="Space", container=False)
            self.status = gr.HTML(markup.status(), elem_id="status")

    def _sample(self) -> None:
        with gr.Row(elem_classes="controls"):
            self.first = gr.Number(0, label="First seed", minimum=0, precision=0, scale=0, min_width=120)
            self.other = gr.Button("Other people", variant="primary", size="md", scale=0, min_width=150)
            gr.HTML("<p>Nobody here exists. Click a face to take it in hand.</p>")
        self.grid = gr.HTML(elem_id="grid", js_on_load=_script("choose"))

    def _blend(self) -> None:
        with gr.Row(elem_classes="controls"):
            self.one = gr.Dropdown([], label="First person")
            self.two = gr.Dropdown([], label="Second person")
            self.three = gr.Dropdown([NOBODY], value=NOBODY, label="Third person")
        self.share = gr.Slider(0, 1, 0.5, step=0.01, label="Share of the second person", elem_id="share")
        self.third = gr.Slider(0, 1, 0.33, step=0.01, label="Share of the third person", elem_id="third", visible=False)
        self.way = gr.HTML(elem_id="way", js_on_load=_script("choose"))
        with gr.Row(elem_classes="controls"):
            self.moving = gr.Radio(
                list(take_home.WALKS), value="WebP", label="Walk there and back", scale=0, min_width=220
            )
            self.walk = gr.Button("Save the walk", size="md", scale=0, min_width=150)

    def _edit(self) -> None:
        with gr.Row(elem_classes="controls"):
            self.edited = gr.Dropdown([], label="Person")
            self.hold = gr.Checkbox(True, label="Hold other attributes", scale=0, min_width=200)
            self.reset = gr.Button("Reset", size="md", scale=0, min_width=90)
        self.undirected = gr.HTML(
            "<p>No directions of attributes lie beside these spaces. <code>dvc repro edit</code> learns them; then "
            "reload this page.</p>",
            visible=not self.studio.labels,
        )
        labels = self.studio.labels + [""] * (MOST_SLIDERS - len(self.studio.labels) if self.studio.grows else 0)
        with gr.Row(elem_id="sliders"):
            self.sliders = [
                gr.Slider(-FURTHEST, FURTHEST, 0, step=0.5, label=shown_label(each), min_width=140, visible=bool(each))
                for each in labels
            ]
        self.change = gr.HTML(elem_id="change")

    def _invert(self) -> None:
        people = visit.examples(self.studio)
        with gr.Row():
            with gr.Column(scale=2, min_width=250):
                self.drop = gr.HTML(_DROP, js_on_load=_script("drop"), elem_id="drop")
            with gr.Column(scale=3, min_width=320):
                self.examples = gr.HTML(
                    markup.choices(people, "try") if people else "<p>No example people here.</p>",
                    elem_id="examples",
                    js_on_load=_script("choose"),
                )
        with gr.Row(elem_classes="controls"):
            self.search = gr.Button("Find this person", variant="primary", size="md", scale=0, min_width=160)
            self.refine = gr.Checkbox(False, label="Refine beyond the space", scale=0, min_width=240)
        self.found = gr.HTML(elem_id="found")

    def _compare(self) -> None:
        with gr.Row(elem_classes="controls"):
            self.versus = gr.Button("Compare the person in hand", variant="primary", size="md", scale=0, min_width=230)
            gr.HTML("<p>The same seed, photos or changes in every space.</p>")
        self.spaces = gr.HTML(elem_id="spaces")

    def _hand(self) -> None:
        self.hand = gr.HTML(elem_id="shown")
        self.prompt = gr.Dropdown(PROMPTS, value=PROMPTS[0], label="Prompt", allow_custom_value=True, elem_id="prompt")
        with gr.Row(elem_classes="controls"):
            self.seed = gr.Number(0, label="Seed", minimum=0, precision=0, scale=1, min_width=60)
            self.count = gr.Radio(
                [1, 2, MOST_SEEDS], value=1, label="Pictures", scale=2, min_width=150, elem_id="count"
            )
            self.keep = gr.Button("Keep", size="md", min_width=60, elem_id="keep")
        self.format = gr.Radio(["diffusers", "peft", "kohya"], value="diffusers", label="Take home", elem_id="format")
        with gr.Row(elem_id="files"):
            self.files = {
                name: gr.Button(name, size="sm", min_width=60) for name in ("LoRA", "Latent", "Sheet", "Python")
            }
        self.download = gr.HTML(
            None, html_template="<span></span>", js_on_load=_script("download"), elem_id="download", visible="hidden"
        )


def shown_label(label: str) -> str:
    """The words for a label of the zoo."""
    return label.replace("_", ": ")


def _script(name: str) -> str:
    return (HERE / f"{name}.js").read_text()
