"""Serving the page: on this machine alone, unless another address is asked for."""

import webbrowser

from w2wpp.explore.page import CSS, THEME, Page
from w2wpp.explore.studio import Studio
from w2wpp.explore.wiring import Wiring
from w2wpp.files.errors import ArgumentError

WAITING = 64  # events in the queue; further ones are refused


def launch(studio: Studio, host: str = "127.0.0.1", port: int | None = None) -> Wiring:
    """Serve the page in a thread; `page.blocks.close()` of what is returned ends it.

    Args:
        host: address to listen at.
        port: None for the first free one from 7860 on.

    Raises:
        ArgumentError: naming `port`: it is in use.
    """
    wiring = Wiring(Page(studio))
    try:
        wiring.page.blocks.queue(max_size=WAITING).launch(
            server_name=host,
            server_port=port,
            theme=THEME,
            css=CSS,
            share=False,
            ssr_mode=False,
            footer_links=[],
            quiet=True,
            max_file_size=1,  # byte: photos come with events, and no upload may fill the disk
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise ArgumentError(None, "port", str(error), "Give another, or none") from error
    return wiring


def serve(studio: Studio, host: str, port: int | None, browser: bool) -> None:
    """Serve the page until the process is interrupted; arguments and errors as of `launch`.

    Args:
        browser: open the page there.
    """
    blocks = launch(studio, host, port).page.blocks
    print(f"the page is at {blocks.local_url}", flush=True)
    if browser:
        webbrowser.open(blocks.local_url)
    blocks.block_thread()
