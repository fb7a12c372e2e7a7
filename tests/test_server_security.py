"""What a hostile page, a stranger on the network or a careless client gets."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("starlette")

from served import TOKEN, Served, serving

from gstk.server.leases import Clocks
from gstk.server.service import Settings

BEARER = {"Authorization": f"Bearer {TOKEN}"}
LIMIT = 3 * 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(Settings(page_token=TOKEN, upload_limit_bytes=LIMIT, hosts=("scanner.example",))) as served:
        yield served


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    with serving(Settings(page_token=TOKEN, key="the-key")) as served:
        yield served


@pytest.mark.parametrize("host", ["evil.example", "evil.example:1527", "127.0.0.1.evil.example", "localhost.", ""])
def test_a_name_that_was_made_to_point_here_is_refused(server: Served, host: str) -> None:
    for path in ("/healthz", "/capabilities", "/"):
        assert server.ask("GET", path, {"Host": host})[0] == 421


@pytest.mark.parametrize("host", ["127.0.0.1:1527", "localhost", "LOCALHOST:80", "[::1]:1527", "scanner.example"])
def test_names_of_this_machine_are_answered(server: Served, host: str) -> None:
    assert server.ask("GET", "/healthz", {"Host": host})[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://evil.example"])
def test_pages_of_another_origin_are_refused_even_with_the_token(server: Served, origin: str) -> None:
    status, _, headers = server.ask("POST", "/claim", {**BEARER, "Origin": origin}, b"")
    assert status == 403
    assert not any(name.startswith("access-control") for name in headers)
    assert server.ask("OPTIONS", "/claim", {"Origin": origin, "Access-Control-Request-Method": "POST"})[0] == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_requests_of_another_site_are_refused_but_for_opening_the_page(server: Served, site: str) -> None:
    assert server.ask("GET", "/capabilities", {**BEARER, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"})[0] == 403
    assert server.ask("POST", "/", {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}, b"")[0] == 403
    assert server.ask("GET", "/", {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"})[0] != 403


@pytest.mark.parametrize("header", [{"Cookie": "a=b"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Mode": "cors"}])
def test_browsers_need_the_pages_token_and_viewers_do_not(server: Served, header: dict[str, str]) -> None:
    claimed = len(server.service.leases)
    for shown in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}):
        assert server.ask("POST", "/claim", {**header, **shown}, b"")[0] == 401
    assert len(server.service.leases) == claimed
    own = {"Origin": f"http://127.0.0.1:{server.port}"}
    for headers in ({}, {**header, **BEARER}, {**own, **BEARER}):
        status, found, _ = server.ask("POST", "/claim", headers, b"")
        assert status == 200
        assert len(found["lease_token"]) >= 32  # 128 bits in hexadecimal
        assert server.ask("POST", "/release", {**headers, "X-Lease-Token": found["lease_token"]}, b"")[0] == 200
    assert len(server.service.leases) == claimed


def test_the_key_is_asked_of_everybody(keyed: Served) -> None:
    for path, method in (("/capabilities", "GET"), ("/claim", "POST"), ("/release", "POST"), ("/undo", "POST")):
        for shown in ({}, {"Authorization": "Bearer the-ke"}, {"Authorization": "bearer"}):
            status, found, headers = keyed.ask(method, path, shown, b"" if method == "POST" else None)
            assert status == 401
            assert "the-key" not in json.dumps(found)
            assert headers["www-authenticate"] == "Bearer"
    assert keyed.ask("GET", "/healthz")[0] == 200
    assert keyed.ask("GET", "/capabilities", {"Authorization": "Bearer the-key"})[0] == 200


def test_a_lease_is_shown_with_every_call(server: Served) -> None:
    for path in ("/undo", "/heartbeat", "/add_point_interaction", "/set_image", "/reset_interactions"):
        for shown in ({}, {"X-Lease-Token": "unknown"}, {"X-Lease-Token": "\u00e9".encode().decode("latin-1")}):
            assert server.ask("POST", path, shown, b"{}")[0] == 410
    assert server.ask("GET", "/lease_status", {"X-Lease-Token": ""})[0] == 410
    assert server.ask("POST", "/release", {"X-Lease-Token": "unknown"}, b"")[1] == {"released": True}


def test_every_answer_tells_the_browser_what_it_may(server: Served) -> None:
    for path, shown in (("/healthz", {}), ("/nothing", {}), ("/capabilities", {"Origin": "null"})):
        headers = server.ask("GET", path, shown)[2]
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers or "uvicorn" in headers["server"]
        assert not any(name.startswith("access-control") for name in headers)


def test_what_is_too_large_is_refused_before_it_is_read(server: Served) -> None:
    for path, length in (("/set_image", 2**40), ("/undo", 2**17), ("/add_point_interaction", 2**17)):
        status, found, _ = server.ask("POST", path, {"Content-Length": str(length)})  # and not one byte of it
        assert status == 413
        assert "at most" in found["detail"]
    assert server.ask("POST", "/set_image", {"Content-Length": "12a"})[0] == 400
    assert server.ask("POST", "/set_image", {"X-Meta": "x" * 9000}, b"")[0] == 400


def test_a_body_that_goes_on_after_its_limit_is_cut_off(server: Served) -> None:
    _, found, _ = server.ask("POST", "/claim", {}, b"")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", "/set_image")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.putheader("X-Lease-Token", found["lease_token"])
    connection.endheaders()
    sent = 0
    try:
        while sent <= 2 * LIMIT:
            connection.send(b"10000\r\n" + bytes(2**16) + b"\r\n")
            sent += 2**16
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server did not wait for the rest
    else:
        assert connection.getresponse().status == 413
    finally:
        connection.close()
    assert server.ask("GET", "/healthz")[0] == 200


def test_a_slow_client_holds_up_nobody(server: Served) -> None:
    _, found, _ = server.ask("POST", "/claim", {}, b"")
    slow = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST /set_image HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Lease-Token: {found['lease_token']}\r\n"
    slow.sendall(head.encode() + b"Content-Length: 1000000\r\n\r\nNNIA")
    began = time.monotonic()
    assert server.ask("GET", "/healthz")[0] == 200
    other = server.ask("POST", "/claim", {}, b"")[1]["lease_token"]
    assert server.ask("POST", "/reset_interactions", {"X-Lease-Token": other}, b"")[0] == 200
    assert time.monotonic() - began < 10
    slow.close()
    for token in (other, found["lease_token"]):
        assert server.ask("POST", "/release", {"X-Lease-Token": token}, b"")[0] == 200


def test_a_body_shorter_than_announced_is_no_request(server: Served) -> None:
    token = server.ask("POST", "/claim", {}, b"")[1]["lease_token"]
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST /set_image HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Lease-Token: {token}\r\n"
    connection.sendall(head.encode() + b"Content-Length: 100000\r\n\r\nNNIA")
    connection.shutdown(socket.SHUT_WR)
    connection.close()
    assert server.ask("POST", "/heartbeat", {"X-Lease-Token": token}, b"{}")[0] == 200
    server.ask("POST", "/release", {"X-Lease-Token": token}, b"")


def test_a_forsaken_page_makes_room_and_a_living_one_does_not() -> None:
    from gstk.server.leases import AtCapacity, Leases

    class Nothing:
        pass

    now = [0.0]
    leases = Leases(Nothing, 2, Clocks(idle_s=100, liveness_s=10, sweep_s=1), now=lambda: now[0])  # type: ignore[arg-type]
    page, _ = leases.claim(is_page=True)
    viewer, _ = leases.claim()
    with pytest.raises(AtCapacity):
        leases.claim()
    now[0] = 11
    assert leases.sweep() == [viewer]  # a page may be opened again
    assert leases.find(page.token) is page
    leases.claim()
    newest, ended = leases.claim()
    assert ended == [page]
    with leases.acting(newest):
        now[0] = 1000
        assert newest not in leases.sweep()
    assert leases.find(newest.token) is newest
    now[0] = 1101
    assert newest in leases.sweep()
