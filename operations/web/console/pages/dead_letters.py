"""Dead letters: filter them, look at one, replay or discard some."""

import json
from collections.abc import Sequence

from litestar import Response
from litestar.response import Redirect

from operations.dead_letters.describe import describe_payload
from operations.dead_letters.discard import discard
from operations.dead_letters.letters import Filters, Letter, UnknownLetter, find, list_letters, require_stage
from operations.dead_letters.payload import PayloadGone, read_payload
from operations.dead_letters.replay import replay, require_replayable
from operations.sinks import names
from operations.web.console.failures import FAILURES, NotFound
from operations.web.console.pages.fields import (
    read_choice,
    read_form_ids,
    read_form_text,
    read_ids,
    read_number,
    read_text,
    read_time,
)
from operations.web.console.rendering import Asked, console_of, go_to, render, signed_in, texts_of
from operations.wiring import System

PER_PAGE = 50
AT_ONCE = 100  # letters of one action
_SHOWN_CHARACTERS = 20_000  # of a payload
_REASON_CHARACTERS = 500
_ACTIONS = ("replay", "discard")


def show_dead_letters(request: Asked) -> Response[str]:
    system = console_of(request).system
    filters = Filters(
        stage=read_text(request, "stage"),
        doc_id=read_text(request, "id"),
        since=read_time(request, "since"),
        reason=read_text(request, "reason"),
    )
    every_state = read_choice(request, "all", ("1",)) is not None
    limit = read_number(request, "limit", PER_PAGE, least=1, most=500)
    after = read_number(request, "after", 0, least=0, most=2**63 - 1) or None
    require_stage(system, filters.stage)
    found = list_letters(system, filters, every_state=every_state, limit=limit + 1, after=after)
    given = {
        "stage": filters.stage,
        "id": filters.doc_id,
        "reason": filters.reason,
        "since": filters.since.isoformat(timespec="minutes") if filters.since else None,
    }
    shown = found[:limit]
    return render(
        request,
        "dead_letters.html",
        given=given | {"all": "1" if every_state else None, "limit": limit},
        letters=shown,
        next=shown[-1].id if len(found) > len(shown) else None,
        is_first=after is None,
        is_filtered=any(given.values()),
        stages=["relay", *names(system)],
    )


def show_dead_letter(request: Asked) -> Response[str]:
    """One letter with its event; vectors and files are shortened."""
    system = console_of(request).system
    [letter] = _find(system, [read_number(request, "id", 0, least=0, most=2**63 - 1)])
    try:
        content = read_payload(system, letter)
    except PayloadGone as error:
        event, size = {"unreadable": str(error)}, None
    else:
        event, size = describe_payload(letter, content), len(content)
    text = json.dumps(event, ensure_ascii=False, indent=2, default=str)
    cut = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}\n…"
    return render(request, "dead_letter.html", letter=letter, event=cut, size=size)


def confirm_dead_letters(request: Asked) -> Response[str]:
    """What the action would do, before it does it."""
    action = read_choice(request, "action", _ACTIONS) or _ACTIONS[0]
    ids = read_ids(request, "letter", most=AT_ONCE)
    letters = _find(console_of(request).system, ids)
    return render(
        request,
        "confirm.html",
        action=action,
        target=f"/dead-letters/{action}",
        back="/dead-letters",
        fields=[("letter", one.id) for one in letters],
        lines=[f"{one.id}: {one.row.stage}: {one.doc_id}: {one.row.error}" for one in letters],
        danger=action == "discard",
    )


def replay_letters(request: Asked) -> Redirect:
    """Send the document of each letter again, once per document."""
    session, words = signed_in(request), texts_of(request)
    system = console_of(request).system_of(session)
    for some in _group_by_document(_find(system, read_form_ids(request, "letter", most=AT_ONCE))):
        doc_id = some[0].doc_id
        try:
            for letter in some:
                require_replayable(letter)
            version = replay(system, some)
        except FAILURES as error:
            session.note("failed", f"{doc_id}: {error}")
        else:
            key = "dead_letters.replayed" if version is not None else "dead_letters.replayed_deleted"
            session.note("done", words(key, id=doc_id, version=version))
    return go_to("/dead-letters")


def discard_letters(request: Asked) -> Redirect:
    """Close letters that need nobody; the operation log keeps the reason."""
    session, words = signed_in(request), texts_of(request)
    system = console_of(request).system_of(session)
    ids = read_form_ids(request, "letter", most=AT_ONCE)
    reason = read_form_text(request, "reason", most=_REASON_CHARACTERS)
    if reason is None:
        session.note("failed", words("dead_letters.reason_needed"))
        return go_to("/dead-letters/confirm", action="discard", letter=ids)
    for letter in _find(system, ids):
        try:
            discard(system, letter, reason)
        except FAILURES as error:
            session.note("failed", f"{letter.id}: {error}")
        else:
            session.note("done", words("dead_letters.discarded", id=letter.id))
    return go_to("/dead-letters")


def _find(system: System, ids: Sequence[int]) -> list[Letter]:
    try:
        return find(system, ids)
    except UnknownLetter as error:
        raise NotFound(str(error)) from error


def _group_by_document(found: Sequence[Letter]) -> list[list[Letter]]:
    groups: dict[str, list[Letter]] = {}
    for letter in found:
        groups.setdefault(letter.doc_id, []).append(letter)
    return list(groups.values())
