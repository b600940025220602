"""The app: screens at their addresses below a token, errors as pages."""

import logging
import threading
from collections.abc import Callable, Mapping

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.explained import explained
from strata_sae.pipeline.explore.asking import Form, body_of, form_of, question_of
from strata_sae.pipeline.explore.links import Links
from strata_sae.pipeline.explore.pages import page, page_policy, rendered
from strata_sae.pipeline.explore.screen import BadValueError, Screen, World
from strata_sae.pipeline.explore.screens.prompt import form_context, prompts_of
from strata_sae.pipeline.explore.screens_of_all import ALL_SCREENS
from strata_sae.pipeline.explore.security import App, Guard
from strata_sae.stores.errors import StoreError

log = logging.getLogger(__name__)

LONGEST_VALUE = 400
"""Characters of a value of the query."""
LARGEST_NUMBER = 2**53
"""Of a number in an address; rows and latents are far fewer."""
NOT_THERE = "No run, SAE, latent or document of that name or number is open here."


class Pages:
    """Renders one page at a time: queries keep what they have read, and threads would share that."""

    def __init__(self, world: World, token: str) -> None:
        self.world, self.links = world, Links(f"/{token}")
        self.lock = threading.Lock()
        self.shown = threading.Event()
        """Set when the first page was rendered."""

    def text(self, screen: Screen, values: Mapping[str, str]) -> str:
        """A screen's page. Raises: as `Screen.fill`, and what the files of runs and stores raise."""
        with self.lock:
            text = page(screen, self.world, self.links, values)
        self.shown.set()
        return text

    def endpoint(self, screen: Screen) -> Callable[[Request], HTMLResponse]:
        """What answers a request for a screen; starlette calls it in a thread."""

        def answer(request: Request) -> HTMLResponse:
            try:
                values = bounded(request.path_params, request.query_params)
                if screen.name == "prompt" and "asked" in values:  # an answer that is made again, without the lock
                    prompts_of(self.world, values).answered(values["run"], values["asked"])
                return self.response(self.text(screen, values))
            except KeyError:
                return self.failed(404, "Not there", NOT_THERE)
            except BadValueError as error:
                return self.failed(400, "Not understood", str(error))
            except (StoreError, CheckpointError, ConfigError) as error:
                log.warning("%s: %s", request.url.path.partition("/")[2], error)
                return self.failed(500, "A file is not what it should be", str(error))

        return answer

    async def posted(self, request: Request) -> Response:
        """What answers the form of a prompt: the address of its page, or the form again with what was wrong."""
        try:
            form = form_of(await body_of(request.stream()))
        except BadValueError as error:
            return self.failed(400, "Not understood", str(error))
        return await run_in_threadpool(self.asked, str(request.path_params["run"]), form)

    def asked(self, name: str, form: Form) -> Response:
        """Have the model of a run read the text of a form. The model works without the lock: other pages go on."""
        values = {"run": name}
        try:
            run, prompts = self.world.run(values), prompts_of(self.world, values)
        except KeyError:
            return self.failed(404, "Not there", NOT_THERE)
        try:
            question = question_of(form, {sae: one.d_sae for sae, one in run.saes.items()})
            asked = prompts.ask(name, question)
        except (BadValueError, ConfigError, StoreError, CheckpointError) as error:
            refused = str(error)
        except Exception as error:
            told = explained(error)[0]
            if told is None:  # a bug
                raise
            refused = told
        else:
            n_tokens = len(prompts.answered(name, asked)[1].prompted.token_ids)
            at = form.at if form.at.isdecimal() and int(form.at) < n_tokens else None
            return RedirectResponse(self.links.prompt(name, asked, at=at) or "", 303)
        with self.lock:
            context = form_context(run, prompts, values, form, refused)
            return self.response(rendered("prompt", self.world, self.links, values, context), 400)

    def failed(self, status: int, title: str, words: str) -> HTMLResponse:
        """An error as a page."""
        return self.response(rendered("error", self.world, self.links, {}, {"title": title, "words": words}), status)

    def response(self, text: str, status: int = 200) -> HTMLResponse:
        """A page with the policy under which it is shown."""
        policy = f"{page_policy(is_static=False)}; frame-ancestors 'none'"
        return HTMLResponse(text, status, headers={"content-security-policy": policy})

    def refused(self, request: Request, error: Exception) -> HTMLResponse:
        """The page of an address without a screen."""
        return self.failed(error.status_code if isinstance(error, HTTPException) else 500, "Not there", NOT_THERE)

    def crashed(self, request: Request, error: Exception) -> HTMLResponse:
        """The page of a bug: its traceback goes to the log of the command, never to a page."""
        return self.failed(500, "Failed", "This page could not be made; the terminal of strata explore says why.")


def bounded(path: Mapping[str, str | int], query: Mapping[str, str]) -> dict[str, str]:
    """The values of an address and its query; the address counts where both name one.

    Raises: KeyError for a number beyond all that is counted here; BadValueError for a value too long.
    """
    for name, value in path.items():
        if isinstance(value, int) and value > LARGEST_NUMBER:
            raise KeyError(name)
    for name, text in query.items():
        if len(text) > LONGEST_VALUE:
            raise BadValueError(f"{name[:40]}: longer than {LONGEST_VALUE} characters")
    return {**query, **{name: str(value) for name, value in path.items()}}


def make_app(pages: Pages, token: str, port: int) -> App:
    """The ASGI app that shows pages, only by this port's own names and below this token."""
    routes = [Route(f"/{token}{screen.pattern}", pages.endpoint(screen), methods=["GET"]) for screen in ALL_SCREENS]
    routes.append(Route(f"/{token}/{{run}}/prompt", pages.posted, methods=["POST"]))
    handlers = {HTTPException: pages.refused, Exception: pages.crashed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # an address has one spelling
    return Guard(app, token, port)
