"""Which act each event of the page is, and what the page shows afterwards."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from w2wpp.explore import markup, take_home, visit
from w2wpp.explore.page import NOBODY, Page, shown_label
from w2wpp.explore.photos import open_photos
from w2wpp.explore.recipes import Blended, title
from w2wpp.explore.studio import Request, Studio
from w2wpp.explore.visit import Face, Shown, Visit
from w2wpp.files.errors import InputError

Updates = dict[Any, Any]
MOST_VISITS = 256  # those that came first are forgotten first
# The page is for people, and offers programs nothing.
_PRIVATE: dict[str, Any] = {"trigger_mode": "always_last", "api_visibility": "private"}
# All visitors wait in one queue for the model.
_SHARED: dict[str, Any] = {**_PRIVATE, "concurrency_id": "model", "concurrency_limit": 1}


class Visits:
    """The visits of open pages, by session."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._visits: dict[str, Visit] = {}

    def __len__(self) -> int:
        return len(self._visits)

    def of(self, session: str) -> Visit:
        """The visit of a page; a new one of a new page."""
        if session not in self._visits:
            self._visits[session] = Visit(next(iter(self._studio.spaces)))
            for oldest in list(self._visits)[:-MOST_VISITS]:
                self.forget(oldest)
        return self._visits[session]

    def forget(self, session: str) -> None:
        """Drop photos, people and pictures of a page that is closed."""
        self._visits.pop(session, None)


class Wiring:
    """The events of a page.

    Attributes:
        visits: of open pages.
    """

    def __init__(self, page: Page) -> None:
        self.page, self.studio = page, page.studio
        self.visits = Visits(page.studio)
        with page.blocks:
            self._wire()

    def _wire(self) -> None:
        page, on, hand = self.page, self._on, [self.page.hand]
        grown = [page.space, page.examples, page.undirected, *page.sliders] if page.studio.grows else []
        on(page.blocks.load, self._opened, [], [page.grid, *hand, *page.choosers, page.way, page.change, *grown])
        page.blocks.unload(self._closed)
        on(page.space.input, self._in_space, [page.space], [page.grid, *hand])

        on(page.first.submit, self._sampled, [page.first], [page.first, page.grid])
        on(page.other.click, self._others, [page.first], [page.first, page.grid])
        on(page.grid.take, self._taken, [], [*hand, *page.choosers], tells=True)

        ends, blend = [page.one, page.two, page.three], [page.one, page.two, page.three, page.share, page.third]
        for end in ends:
            on(end.input, self._ends, blend, [page.third, page.way, *hand])
        for slider in (page.share, page.third):
            self._slides(slider, self._blended, blend, hand)
        on(page.way.take, self._stepped, blend, [page.share, page.third, *hand], tells=True)
        on(page.walk.click, self._walked, [page.moving, *blend], [page.download])

        edit = [page.edited, page.hold, *page.sliders]
        for slider in page.sliders:
            self._slides(slider, self._edited, edit, [page.change, *hand])
        for component in (page.edited, page.hold):
            on(component.input, self._edited, edit, [page.change, *hand])
        on(page.reset.click, self._reset, [page.edited], [*page.sliders, page.change, *hand])

        on(page.drop.photos, self._brought, [], [page.found], tells=True)
        on(page.examples.take, self._tried, [], [page.found], tells=True)
        on(page.search.click, self._searched, [page.refine], [page.found, *hand, *page.choosers], long=True)
        on(page.versus.click, self._compared, [], [page.spaces, *hand], long=True)

        asked = [page.prompt, page.seed, page.count]
        for event in (page.prompt.input, page.seed.submit, page.seed.blur, page.count.input):
            on(event, self._asked, asked, hand)
        on(page.keep.click, self._kept, [], page.choosers)
        for name, button in page.files.items():
            on(button.click, self._takes_home(name), [page.format], [page.download, *hand])

    def _on(
        self,
        listen: Callable[..., Any],
        act: Callable[..., Updates],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        tells: bool = False,
        long: bool = False,
    ) -> Any:
        """Do an act at an event; of events that come while it is done, the last follows.

        Args:
            act: (visit, values of inputs) -> new values of some outputs; where the event tells something, that comes
                before the values.
            long: show progress in place of the first output.
        """

        def run(request: gr.Request, *values: Any) -> Updates:
            return self._answer(request, act, *values)

        def run_with_data(request: gr.Request, data: gr.EventData, *values: Any) -> Updates:
            return self._answer(request, act, data._data, *values)

        def run_long(request: gr.Request, progress: Any = gr.Progress(track_tqdm=True), *values: Any) -> Updates:  # noqa: B008
            return self._answer(request, act, *values)

        chosen = run_with_data if tells else run_long if long else run
        return listen(
            chosen,
            list(inputs),
            [*outputs, self.page.status],
            show_progress="full" if long else "hidden",
            show_progress_on=outputs[0],
            **_SHARED,
        )

    def _slides(self, slider: gr.Slider, act: Callable[..., Updates], inputs: list, outputs: list) -> None:
        """A draft for each move that the drafts keep up with; the whole picture once the slider rests."""

        def draft(visitor: Visit, *values: Any) -> Updates:
            return act(visitor, *values, draft=True)

        def rest() -> None:
            time.sleep(visit.PAUSE)

        def whole(visitor: Visit, *values: Any) -> Updates:
            return act(visitor, *values) if visitor.resting else {}

        moved = self._on(slider.input, draft, inputs, outputs)
        rested = moved.then(rest, None, None, queue=False, show_progress="hidden", **_PRIVATE)
        self._on(rested.then, whole, inputs, outputs)

    def _answer(self, request: gr.Request, act: Callable[..., Updates], *values: Any) -> Updates:
        """The updates of an act, or the one line that says why there are none."""
        try:
            return {self.page.status: markup.status(), **act(self.visits.of(request.session_hash or ""), *values)}
        except InputError as error:
            return {self.page.status: markup.status(visit.said(error), bad=True)}

    def _closed(self, request: gr.Request) -> None:
        session = request.session_hash or ""
        self.visits.forget(session)
        # Gradio keeps the last values of a page for an hour.
        self.page.blocks.state_holder.session_data.pop(session, None)

    # Acts. Each returns what changes on the page.

    def _opened(self, visitor: Visit) -> Updates:
        self.studio.look_again()
        visitor.space = next(iter(self.studio.spaces))
        faces = visit.sample(self.studio, visitor, 0)
        for number in (1, 0):
            shown = visit.take(self.studio, visitor, number)
        names = list(visitor.shelf)
        people = {self.page.one: names[1], self.page.two: names[0], self.page.edited: names[1]}
        blend = visit.blended(visitor, names[::-1], (0.5,))
        return {
            self.page.grid: markup.choices(faces, "take", 0),
            **self._hand(shown),
            **{
                each: gr.update(choices=self._names(visitor, each), value=people.get(each, NOBODY))
                for each in self.page.choosers
            },
            **self._way(visitor, blend),
            **self._change(visitor, names[1], shown),
            **(self._grown() if self.studio.grows else {}),
        }

    def _grown(self) -> Updates:
        """What there is to choose from, which may be more than when the page was made."""
        spaces, labels = list(self.studio.spaces), self.studio.labels
        people = visit.examples(self.studio)
        return {
            self.page.space: gr.update(choices=spaces, value=spaces[0]),
            self.page.undirected: gr.update(visible=not labels),
            **({self.page.examples: markup.choices(people, "try")} if people else {}),
            **{
                slider: gr.update(label=shown_label(label), visible=True)
                for slider, label in zip(self.page.sliders, labels, strict=False)
            },
        }

    def _in_space(self, visitor: Visit, space: str) -> Updates:
        visitor.space = space
        faces = visit.again(self.studio, visitor)
        return {self.page.grid: markup.choices(faces, "take"), **self._hand(visit.finished(self.studio, visitor))}

    def _sampled(self, visitor: Visit, first: int | None) -> Updates:
        first = int(first or 0)
        return {
            self.page.first: first,
            self.page.grid: markup.choices(visit.sample(self.studio, visitor, first), "take"),
        }

    def _others(self, visitor: Visit, first: int | None) -> Updates:
        return self._sampled(visitor, int(first or 0) + visit.GRID)

    def _taken(self, visitor: Visit, data: dict) -> Updates:
        return {**self._hand(visit.take(self.studio, visitor, int(data["number"]))), **self._shelf(visitor)}

    def _ends(self, visitor: Visit, *blend: Any) -> Updates:
        recipe = self._recipe(visitor, *blend)
        return {
            self.page.third: gr.update(visible=blend[2] != NOBODY),
            **self._way(visitor, recipe),
            **self._hand(visit.show(self.studio, visitor, recipe)),
        }

    def _blended(self, visitor: Visit, *blend: Any, draft: bool = False) -> Updates:
        return self._hand(visit.show(self.studio, visitor, self._recipe(visitor, *blend), draft))

    def _stepped(self, visitor: Visit, data: dict, *blend: Any) -> Updates:
        one, two, three, share, third = blend
        step = int(data["number"]) / (visit.WAY - 1)
        share, third = (step, third) if three == NOBODY else (share, step)
        shown = visit.show(self.studio, visitor, self._recipe(visitor, one, two, three, share, third))
        return {self.page.share: share, self.page.third: third, **self._hand(shown)}

    def _walked(self, visitor: Visit, format: str, *blend: Any) -> Updates:
        pictures = visit.walk(self.studio, visitor, self._recipe(visitor, *blend))
        return {self.page.download: markup.handed(take_home.walk(pictures, format))}

    def _edited(self, visitor: Visit, name: str, hold: bool, *strengths: float, draft: bool = False) -> Updates:
        changes = dict(zip(self.studio.labels, strengths, strict=False))
        shown = visit.show(self.studio, visitor, visit.edited(visitor, name, changes, hold), draft)
        return {**self._change(visitor, name, shown), **self._hand(shown)}

    def _reset(self, visitor: Visit, name: str) -> Updates:
        shown = visit.show(self.studio, visitor, visitor.kept(name))
        return {
            **dict.fromkeys(self.page.sliders, 0),
            **self._change(visitor, name, shown),
            **self._hand(shown),
        }

    def _brought(self, visitor: Visit, data: dict) -> Updates:
        return {self.page.found: markup.figures(visit.bring(visitor, open_photos(data["files"])))}

    def _tried(self, visitor: Visit, data: dict) -> Updates:
        names = list(self.studio.examples)
        return {self.page.found: markup.figures(visit.example(self.studio, visitor, names[int(data["number"])]))}

    def _searched(self, visitor: Visit, refined: bool) -> Updates:
        faces = visit.invert(self.studio, visitor, refined)
        assert visitor.shown is not None
        return {
            self.page.found: markup.figures(faces, visitor.request.prompt),
            **self._hand(visitor.shown),
            **self._shelf(visitor),
        }

    def _compared(self, visitor: Visit) -> Updates:
        faces = visit.compare(self.studio, visitor)
        assert visitor.shown is not None
        return {self.page.spaces: markup.rows(faces, visitor.request.prompt), **self._hand(visitor.shown)}

    def _asked(self, visitor: Visit, prompt: str | None, seed: int | None, count: int) -> Updates:
        first = int(seed or 0)
        visitor.request = Request((prompt or "").strip() or Request().prompt, tuple(range(first, first + int(count))))
        return self._hand(visit.finished(self.studio, visitor))

    def _kept(self, visitor: Visit) -> Updates:
        visitor.keep(visit.finished(self.studio, visitor).recipe)
        return self._shelf(visitor)

    def _takes_home(self, name: str) -> Callable[..., Updates]:
        def act(visitor: Visit, format: Any) -> Updates:
            shown = visit.finished(self.studio, visitor)
            match name:
                case "LoRA":
                    file = take_home.lora(shown, format)
                case "Latent":
                    file = take_home.latent(shown, self.studio)
                case "Sheet":
                    file = take_home.sheet(shown)
                case _:
                    file = take_home.snippet(shown, self.studio)
            return {self.page.download: markup.handed(file), **self._hand(shown)}

        return act

    # What the page shows.

    def _hand(self, shown: Shown) -> Updates:
        face = Face(title(shown.recipe), shown.pictures, f"{shown.space}, draft" if shown.draft else shown.space)
        return {self.page.hand: markup.figures([face], shown.request.prompt)}

    def _shelf(self, visitor: Visit) -> Updates:
        return {each: gr.update(choices=self._names(visitor, each)) for each in self.page.choosers}

    def _names(self, visitor: Visit, chooser: gr.Dropdown) -> list[str]:
        return [*([NOBODY] if chooser is self.page.three else []), *visitor.shelf]

    def _recipe(self, visitor: Visit, one: str, two: str, three: str, share: float, third: float) -> Blended:
        return visit.blended(visitor, (one, two, None if three == NOBODY else three), (share, third))

    def _way(self, visitor: Visit, recipe: Blended) -> Updates:
        return {self.page.way: markup.choices(visit.way(self.studio, visitor, recipe), "take")}

    def _change(self, visitor: Visit, name: str, shown: Shown) -> Updates:
        start = visit.before(self.studio, visitor, name)
        faces = [Face(f"before: {start.title}", start.pictures), Face("after", shown.pictures[:1])]
        return {self.page.change: markup.figures(faces, shown.request.prompt)}
