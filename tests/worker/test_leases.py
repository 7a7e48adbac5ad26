import asyncio
from typing import Any

import pytest
from yarl import URL

from streams.errors import UnknownTask
from streams.record import Record
from tables.rows import Kind, prefix_of
from tables.sweep import Sweeper
from tests.core.table import Table
from tests.worker.conftest import HOME, NOW, PROJECT, TASK, Client, House
from tests.worker.test_views import MARKS, SAFE

LEASES = f"/v1/projects/{PROJECT}/leases"
DAY_MS = 24 * 3600 * 1000


async def asks(client: Client, path: str = LEASES, method: str = "POST", **body: Any) -> tuple[int, Any]:
    answer = await client.request(method, path, json=body)
    return answer.status, await answer.json()


def skip(user: str, medium: dict[str, str], whom: str) -> dict[str, Any]:
    return {"user_id": user, "media": [medium], "for": whom}


def media(answer: Any) -> list[str]:
    return [item["id"] for item in answer["active_set"]]


async def test_what_is_leased_to_one_user_is_given_to_nobody_else(client: Client, house: House) -> None:
    await house.tells("m1", "m2", "m3")
    await house.infers({"m1": 0.9, "m2": 0.5, "m3": 0.1})

    status, ann = await asks(client, user_id="ann", limit=1, request_id="r1")
    _, bob = await asks(client, user_id="bob", limit=1, ttl_s=60)
    suggested = await (await client.get(f"{MARKS}?limit=2")).json()

    assert status == 200
    assert (media(ann), media(bob), media(suggested)) == (["m1"], ["m2"], ["m3"])
    assert ann["lease"] == {
        "id": "r1",
        "user_id": "ann",
        "task_id": None,
        "expires_at": "2026-01-01T00:10:00+00:00",
        "media": [{"media_type": "image", "media_id": "m1"}],
    }
    assert ann["active_set"][0]["active_learning"]["reasons"][0]["label"] == "a"
    assert bob["lease"]["expires_at"] == "2026-01-01T00:01:00+00:00"


async def test_a_request_that_is_repeated_gets_the_same_lease_and_no_more(client: Client, house: House) -> None:
    await house.tells("m1", "m2", "m3")
    _, first = await asks(client, user_id="ann", limit=2, request_id="r1")

    _, again = await asks(client, user_id="ann", limit=2, request_id="r1")
    _, theirs = await asks(client, user_id="bob", limit=2)

    assert again == first
    assert len({*media(first), *media(theirs)}) == 3


async def test_a_request_that_is_repeated_with_nothing_left_is_told_so_and_may_come_again(
    client: Client, house: House
) -> None:
    await house.tells("m1")
    await asks(client, user_id="ann")

    status, nothing = await asks(client, user_id="bob", request_id="r2")

    assert (status, nothing["lease"], nothing["active_set"]) == (200, None, [])
    assert nothing["reason"] == "every medium that is left is leased to somebody"


async def test_leases_that_two_publish_under_one_name_are_one_lease() -> None:
    table = Table()
    pick = {"medium": {"media_type": "image", "media_id": "m1"}, "rank": 1, "score": 0.5, "uploaded_at": NOW}
    other = {**pick, "medium": {"media_type": "image", "media_id": "m2"}}
    lease: dict[str, Any] = {"change": "granted", "request_id": "r1", "user_id": "ann", "expires_at": NOW + 1000}

    await table.hears("active_set_events", 0, **lease, media=[pick])
    before = dict(table)
    await table.hears("active_set_events", 1, **lease, media=[other])

    assert table == before


async def test_a_request_that_a_former_owner_granted_meanwhile_gets_that_when_it_is_sent_again(
    client: Client, house: House, monkeypatch: Any
) -> None:
    await house.tells("m1", "m2")
    [first, _] = await house.shown(None)
    other = next(each for each in ("m1", "m2") if each != first)
    pick = {"medium": {"media_type": "image", "media_id": other}, "rank": 1, "score": 1.0, "uploaded_at": NOW}

    async def late(record: Record) -> int:
        theirs = {"change": "granted", "request_id": "r1", "user_id": "ann", "expires_at": NOW + 1000}
        await house.says("active_set_events", media=[pick], **theirs)
        return await house.publish(record)

    object.__setattr__(house.sets, "publish", late)
    status, told = await asks(client, user_id="ann", limit=1, request_id="r1")
    object.__setattr__(house.sets, "publish", house.publish)
    _, again = await asks(client, user_id="ann", limit=1, request_id="r1")

    assert (status, told["error_code"]) == (503, "not_ready")
    assert media(again) == [other]
    assert await house.shown(None) == [first]


async def test_a_lease_that_is_over_frees_its_media(client: Client, house: House, monkeypatch: Any) -> None:
    await house.tells("m1")
    await asks(client, user_id="ann", ttl_s=60, request_id="r1")
    later(house, NOW + 60_000, monkeypatch)

    _, bob = await asks(client, user_id="bob")
    status, again = await asks(client, user_id="ann", ttl_s=60, request_id="r1")
    renewed, told = await asks(client, f"{LEASES}/r1", "PATCH", user_id="ann")

    assert media(bob) == ["m1"]
    assert (status, again["error_code"]) == (409, "request_id_used")
    assert (renewed, told["error_code"]) == (410, "lease_over")


async def test_a_lease_that_is_renewed_ends_later(client: Client, house: House, monkeypatch: Any) -> None:
    await house.tells("m1")
    await asks(client, user_id="ann", ttl_s=60, request_id="r1")

    status, renewed = await asks(client, f"{LEASES}/r1", "PATCH", user_id="ann", ttl_s=3600)
    later(house, NOW + 61_000, monkeypatch)
    _, bob = await asks(client, user_id="bob")
    _, again = await asks(client, user_id="ann", request_id="r1")

    assert (status, renewed["lease"]["expires_at"]) == (200, "2026-01-01T01:00:00+00:00")
    assert bob["lease"] is None
    assert (media(again), again["lease"]) == (["m1"], renewed["lease"])


async def test_what_is_released_is_for_others_at_once(client: Client, house: House) -> None:
    await house.tells("m1")
    await asks(client, user_id="ann", request_id="r1")

    answer = await client.delete(f"{LEASES}/r1", params={"user_id": "ann"})
    _, bob = await asks(client, user_id="bob")
    again = await client.delete(f"{LEASES}/r1", params={"user_id": "ann"})

    assert (answer.status, (await answer.json())["lease"]["media"]) == (200, [])
    assert media(bob) == ["m1"]
    assert again.status == 410


@pytest.mark.parametrize(
    ("whom", "ann", "bob", "anybody"),
    [("me", [], ["m1"], ["m1"]), ("others", ["m1"], [], []), ("good", [], [], [])],
)
async def test_what_is_skipped_is_given_to_those_whom_it_is_for(
    client: Client, house: House, whom: str, ann: list[str], bob: list[str], anybody: list[str]
) -> None:
    await house.tells("m1")
    await asks(client, user_id="ann", request_id="r1")
    m1 = {"media_type": "image", "media_id": "m1"}

    status, left = await asks(client, f"{LEASES}/r1/skips", **skip("ann", m1, whom))
    shown = await (await client.get(SAFE)).json()
    answers = []
    for user in ("ann", "bob"):
        _, answer = await asks(client, user_id=user, request_id=f"r of {user}")
        answers.append(media(answer))
        await client.delete(f"{LEASES}/r of {user}", params={"user_id": user})

    assert (status, left["lease"]["media"]) == (200, [])
    assert (media(shown), answers) == (anybody, [ann, bob])
    if not anybody:
        assert shown["reason"].startswith("every medium that is left was skipped")


async def test_a_skip_ends_when_the_medium_is_uploaded_anew(client: Client, house: House) -> None:
    await house.tells("m1")
    await asks(client, user_id="ann", request_id="r1")
    m1 = {"media_type": "image", "media_id": "m1"}
    await asks(client, f"{LEASES}/r1/skips", **skip("ann", m1, "good"))

    await house.says("media_deletions", dataset_storage_id="s", timestamp=NOW + 1, **m1)
    await house.says("media_uploads", dataset_storage_id="s", timestamp=NOW + 2, **m1)
    await house.settle()

    assert await house.shown(None) == ["m1"]
    assert not [*house.state.owned(HOME).store.scan(key_of(Kind.SKIP))]


def key_of(kind: Kind) -> bytes:
    return prefix_of(PROJECT, kind)


async def test_leases_are_forgotten_a_day_after_their_end(client: Client, house: House, monkeypatch: Any) -> None:
    await house.tells("m1", "m2")
    await asks(client, user_id="ann", limit=1, ttl_s=60, request_id="r1")
    await asks(client, f"{LEASES}/r1", "PATCH", user_id="ann", ttl_s=120)

    later(house, NOW + 120_001 + DAY_MS, monkeypatch)
    await asks(client, user_id="ann", limit=1, request_id="r2")

    store = house.state.owned(HOME).store
    assert (len([*store.scan(key_of(Kind.LEASE))]), len([*store.scan(key_of(Kind.LEASE_END))])) == (1, 1)
    status, _ = await asks(client, f"{LEASES}/r1", "PATCH", user_id="ann")
    assert status == 404


M1 = {"media_type": "image", "media_id": "m1"}
GONE = {"dataset_storage_id": "s", **M1}


async def test_a_lease_counts_though_the_clocks_of_producers_are_ahead(client: Client, house: House) -> None:
    await house.tells("m1")
    await house.says("project_deletions", timestamp=NOW + 50)
    await house.tells(timestamp=NOW + 100)
    await house.says("media_uploads", timestamp=NOW + 100, **GONE)

    _, first = await asks(client, user_id="ann", request_id="r1")
    _, again = await asks(client, user_id="ann", request_id="r1")
    status, renewed = await asks(client, f"{LEASES}/r1", "PATCH", user_id="ann")

    assert media(first) == ["m1"]
    assert again == first
    assert (status, renewed["lease"]) == (200, first["lease"])


async def test_a_medium_that_was_deleted_and_comes_again_is_not_the_leases_also_before_it_is_swept(
    client: Client, house: House, monkeypatch: Any
) -> None:
    await house.tells("m1", "m2")
    await asks(client, user_id="ann", limit=2, request_id="r1")
    monkeypatch.setattr(Sweeper, "start", lambda _: None)

    await house.says("media_deletions", timestamp=NOW + 1, **GONE)
    await house.says("media_uploads", timestamp=NOW + 2, **GONE)

    _, ann = await asks(client, user_id="ann", limit=2, request_id="r1")
    _, renewed = await asks(client, f"{LEASES}/r1", "PATCH", user_id="ann")
    _, bob = await asks(client, user_id="bob", limit=2)
    assert (media(ann), media(bob)) == (["m2"], ["m1"])
    assert ann["lease"]["media"] == renewed["lease"]["media"] == [{**M1, "media_id": "m2"}]


@pytest.mark.parametrize("swept", [True, False])
async def test_a_lease_of_which_all_was_deleted_is_over(
    client: Client, house: House, monkeypatch: Any, swept: bool
) -> None:
    await house.tells("m1", "m2")
    _, first = await asks(client, user_id="ann", limit=1, request_id="r1")
    if not swept:
        monkeypatch.setattr(Sweeper, "start", lambda _: None)

    gone = {"dataset_storage_id": "s", **first["lease"]["media"][0]}
    await house.says("media_deletions", timestamp=NOW + 1, **gone)
    await house.settle()

    again, _ = await asks(client, user_id="ann", limit=1, request_id="r1")
    renewed, _ = await asks(client, f"{LEASES}/r1", "PATCH", user_id="ann")
    assert (again, renewed) == (409, 410)


async def test_a_request_to_which_nothing_was_granted_may_be_sent_again(client: Client, house: House) -> None:
    await house.tells("m1", "m2")
    _, first = await asks(client, user_id="bob", limit=1)
    pick = {"medium": first["lease"]["media"][0], "rank": 1, "score": 1.0, "uploaded_at": NOW}
    lost = {"change": "granted", "request_id": "r1", "user_id": "ann", "expires_at": NOW + 1000}
    await house.says("active_set_events", media=[pick], **lost)

    renewed, _ = await asks(client, f"{LEASES}/r1", "PATCH", user_id="ann")
    _, ann = await asks(client, user_id="ann", limit=1, request_id="r1")
    _, again = await asks(client, user_id="ann", limit=1, request_id="r1")

    assert renewed == 404
    assert {*media(first), *media(ann)} == {"m1", "m2"}
    assert again == ann


async def test_what_was_annotated_is_the_leases_no_more_wherever_it_is_told(client: Client, house: House) -> None:
    await house.tells("m1", "m2")
    await asks(client, user_id="ann", limit=2, request_id="r1")

    await house.says("annotation_updates", media_id="m1", states={TASK: "annotated"})

    _, again = await asks(client, user_id="ann", limit=2, request_id="r1")
    _, renewed = await asks(client, f"{LEASES}/r1", "PATCH", user_id="ann")
    status, _ = await asks(client, f"{LEASES}/r1/skips", **skip("ann", M1, "me"))
    assert media(again) == ["m2"]
    assert again["lease"]["media"] == renewed["lease"]["media"] == [{**M1, "media_id": "m2"}]
    assert status == 400


@pytest.mark.parametrize("annotated", [1, 2])
async def test_what_is_annotated_while_it_is_granted_is_in_no_answer(
    client: Client, house: House, annotated: int
) -> None:
    await house.tells("m1", "m2", "m3")
    best = (await house.shown(None))[:2]

    async def late(record: Record) -> int:
        for each in best[:annotated]:
            await house.says("annotation_updates", media_id=each, states={TASK: "annotated"})
        return await house.publish(record)

    object.__setattr__(house.sets, "publish", late)
    _, first = await asks(client, user_id="ann", limit=2, request_id="r1")
    _, again = await asks(client, user_id="ann", limit=2, request_id="r1")

    assert media(first) == [each["media_id"] for each in first["lease"]["media"]] == best[annotated:]
    assert (media(again), again["lease"]) == (media(first), first["lease"])
    assert first.get("reason") == again.get("reason") == ANNOTATED[annotated]


ANNOTATED = {1: None, 2: "every medium of the lease was annotated meanwhile"}


async def test_a_lease_of_a_task_that_goes_while_it_is_granted_is_told_and_may_be_released(
    client: Client, house: House
) -> None:
    await house.tells("m1", tasks=(TASK, "t2"))

    async def late(record: Record) -> int:
        await house.tells(tasks=("t2",))
        return await house.publish(record)

    object.__setattr__(house.sets, "publish", late)
    status, told = await asks(client, user_id="ann", task_id=TASK)
    object.__setattr__(house.sets, "publish", house.publish)
    released = await client.delete(f"{LEASES}/{told['lease']['id']}", params={"user_id": "ann"})

    assert (status, media(told), told["lease"]["media"]) == (200, ["m1"], [M1])
    assert released.status == 200
    assert await house.shown("t2") == ["m1"]


async def test_a_request_that_is_looked_at_twice_is_granted_once(client: Client, house: House) -> None:
    await house.tells("m1", "m2")
    published: list[Record] = []

    async def gone(record: Record) -> int:
        published.append(record)
        await house.publish(record)
        raise UnknownTask("it was there just now")

    object.__setattr__(house.sets, "publish", gone)
    status, told = await asks(client, user_id="ann", limit=1)

    assert (status, len(media(told)), len(published)) == (200, 1, 1)


async def test_what_a_user_skipped_does_not_make_suggestions_begin_anew_while_others_may_have_it(
    client: Client, house: House
) -> None:
    await house.tells("m1", "m2", "m3")
    suggested = await house.suggested(None, 2)
    _, ann = await asks(client, user_id="ann", request_id="r1")
    await asks(client, f"{LEASES}/r1/skips", **skip("ann", ann["lease"]["media"][0], "me"))

    _, nothing = await asks(client, user_id="ann")

    assert (nothing["lease"], nothing["reason"]) == (None, f"{LEFT} was skipped or was suggested already")
    assert await house.shown(None) == media(ann)
    assert {*suggested, *media(ann)} == {"m1", "m2", "m3"}


LEFT = "every medium that is left"


@pytest.mark.parametrize(
    ("ways", "reason"),
    [
        (("good",), f"{LEFT} was skipped"),
        (("lease",), f"{LEFT} is leased to somebody"),
        (("good", "lease"), f"{LEFT} was skipped or is leased to somebody"),
        (("suggest",), f"{LEFT} was suggested already; the next request that marks begins anew"),
        (("good", "suggest"), f"{LEFT} was skipped or was suggested already; the next request that marks begins anew"),
    ],
)
async def test_an_empty_set_tells_all_that_became_of_what_is_left(
    client: Client, house: House, ways: tuple[str, ...], reason: str
) -> None:
    await house.tells(*[f"m{n}" for n in range(len(ways))])
    for way in ways:
        if way == "suggest":
            await house.suggested(None, 1)
            continue
        _, lease = await asks(client, user_id="ann", limit=1, request_id=way)
        if way == "good":
            await asks(client, f"{LEASES}/{way}/skips", **skip("ann", lease["lease"]["media"][0], way))

    shown = await (await client.get(SAFE)).json()

    assert (shown["active_set"], shown["reason"]) == ([], reason)


async def test_a_skip_that_names_no_media_is_of_all_that_the_lease_has(client: Client, house: House) -> None:
    await house.tells("m1", "m2", "m3")
    await asks(client, user_id="ann", request_id="r1")
    await house.says("annotation_updates", media_id="m1", states={TASK: "annotated"})

    status, told = await asks(client, f"{LEASES}/r1/skips", user_id="ann", **{"for": "me"})
    over, _ = await asks(client, f"{LEASES}/r1/skips", user_id="ann", **{"for": "me"})

    assert (status, told["lease"]["media"], over) == (200, [], 410)
    assert sorted(await house.shown(None)) == ["m2", "m3"]


async def test_a_skip_of_what_was_uploaded_at_the_beginning_of_time_ends_with_its_deletion(
    client: Client, house: House
) -> None:
    await house.tells()
    await house.says("media_uploads", timestamp=0, **GONE)
    await asks(client, user_id="ann", request_id="r1")
    await asks(client, f"{LEASES}/r1/skips", **skip("ann", M1, "good"))

    await house.says("media_deletions", timestamp=1, **GONE)
    await house.says("media_uploads", timestamp=2, **GONE)

    assert await house.shown(None) == ["m1"]


async def test_a_lease_that_runs_out_while_it_is_asked_for_is_changed_or_over(client: Client, house: House) -> None:
    await house.tells("m1")
    await asks(client, user_id="ann", ttl_s=1, request_id="r1")
    for first, answered in ((NOW + 999, 200), (NOW + 2000, 410)):
        times = iter([first])
        object.__setattr__(house.sets, "now", lambda times=times, first=first: next(times, first + 1))

        status, _ = await asks(client, f"{LEASES}/r1", "PATCH", user_id="ann", ttl_s=1)

        assert status == answered


async def test_users_who_lease_at_the_same_moment_never_get_the_same_medium(client: Client, house: House) -> None:
    await house.tells(*[f"m{n}" for n in range(60)])

    answers = await asyncio.gather(*(asks(client, user_id=f"u{n}", limit=2) for n in range(30)))

    got = [each for status, answer in answers if status == 200 for each in media(answer)]
    assert len(got) == len({*got}) == 60


async def test_leased_media_come_back_after_a_worker_was_restarted_with_the_same_answer(
    client: Client, house: House
) -> None:
    await house.tells("m1", "m2", tasks=(TASK, "t2"))
    _, first = await asks(client, user_id="ann", limit=1, request_id="r1", task_id=TASK)
    house.state.owned(HOME).rankings.clear()

    _, again = await asks(client, user_id="ann", limit=1, request_id="r1", task_id=TASK)

    assert again == first


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", LEASES, {}, 400, "bad_request"),
        ("POST", LEASES, {"user_id": ""}, 400, "bad_request"),
        ("POST", LEASES, {"user_id": "u" * 201}, 400, "bad_request"),
        ("POST", LEASES, {"user_id": "u", "limit": 0}, 400, "bad_request"),
        ("POST", LEASES, {"user_id": "u", "limit": 1001}, 400, "bad_request"),
        ("POST", LEASES, {"user_id": "u", "limit": "1"}, 400, "bad_request"),
        ("POST", LEASES, {"user_id": "u", "ttl_s": 604_801}, 400, "bad_request"),
        ("POST", LEASES, {"user_id": "u", "ttl_s": 1.5}, 400, "bad_request"),
        ("POST", LEASES, {"user_id": "u", "colour": 1}, 400, "bad_request"),
        ("POST", LEASES, {"user_id": "u", "request_id": "a/b"}, 400, "bad_request"),
        ("POST", LEASES, {"user_id": "u", "task_id": "t9"}, 404, "task_not_found"),
        ("POST", f"{LEASES}?limit=1", {"user_id": "u"}, 400, "bad_request"),
        ("POST", "/v1/projects/nobody/leases", {"user_id": "u"}, 404, "project_not_found"),
        ("POST", LEASES, {"user_id": "bob", "request_id": "r1"}, 409, "request_id_used"),
        ("POST", LEASES, {"user_id": "ann", "request_id": "r1", "task_id": TASK}, 409, "request_id_used"),
        ("PATCH", f"{LEASES}/r1", {"user_id": "bob"}, 403, "lease_of_another_user"),
        ("PATCH", f"{LEASES}/r9", {"user_id": "ann"}, 404, "lease_not_found"),
        ("PATCH", f"{LEASES}/%00", {"user_id": "ann"}, 404, "lease_not_found"),
        ("PATCH", f"{LEASES}/a%2Fb", {"user_id": "ann"}, 404, "lease_not_found"),
        ("PATCH", f"{LEASES}/r1", {"user_id": "ann", "ttl_s": 0}, 400, "bad_request"),
        ("DELETE", f"{LEASES}/r1", {}, 400, "bad_request"),
        ("DELETE", f"{LEASES}/r1?user_id=bob", {}, 403, "lease_of_another_user"),
        ("DELETE", f"{LEASES}/r1?user_id=a&user_id=a", {}, 400, "bad_request"),
        ("DELETE", f"{LEASES}/r1?user_id=ann&x=1", {}, 400, "bad_request"),
        ("POST", f"{LEASES}/r1/skips", {"user_id": "ann", "media": [], "for": "me"}, 400, "bad_request"),
        ("POST", f"{LEASES}/r1/skips", {"user_id": "ann", "media": [{"media_type": "image", "media_id": "m9"}],
                                        "for": "me"}, 400, "bad_request"),
        ("GET", LEASES, {}, 405, "method_not_allowed"),
        ("HEAD", LEASES, {}, 405, ""),
        ("PUT", f"{LEASES}/r1", {}, 405, "method_not_allowed"),
    ],
)  # fmt: skip
async def test_a_wrong_request_is_answered_with_what_is_wrong_and_changes_nothing(
    client: Client, house: House, method: str, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    await house.tells("m1", "m2")
    await asks(client, user_id="ann", limit=1, request_id="r1")
    before = house.ends["active_set_events"]

    answer = await client.request(method, URL(path, encoded=True), json=body)

    assert answer.status == status
    if code:
        told = await answer.json()
        assert (told["error_code"], answer.content_type) == (code, "application/problem+json")
    assert house.ends["active_set_events"] == before


async def test_a_body_that_is_no_json_is_refused(client: Client, house: House) -> None:
    await house.tells("m1")

    plain = await client.post(LEASES, data=b'{"user_id": "u"}', headers={"Content-Type": "text/plain"})
    broken = await client.post(LEASES, data=b'{"user_id": ', headers={"Content-Type": "application/json"})
    large = await client.post(LEASES, data=b" " * 70_000, headers={"Content-Type": "application/json"})
    packed = await client.post(LEASES, data=b"{}", headers={"Content-Encoding": "gzip"}, skip_auto_headers=["x"])

    assert [each.status for each in (plain, broken, large, packed)] == [415, 400, 413, 415]


def later(house: House, now: int, monkeypatch: Any) -> None:
    """It is another time for the views."""
    object.__setattr__(house.sets, "now", lambda: now)
