"""Files, releases and passwords, on a real file system."""

from __future__ import annotations

import os
import stat
import string
import subprocess
from pathlib import Path

import pytest

from stacks.local.provider import homes
from stacks.local.provider.accounts import Account, operator, require_reachable, service
from stacks.local.provider.errors import ProviderError
from stacks.local.provider.handlers.file import FileHandler
from stacks.local.provider.handlers.password import PasswordHandler
from stacks.local.provider.handlers.release import ReleaseHandler, digest
from stacks.local.provider.values import UNKNOWN, Values


def filled(home: str, user: str, **inputs: object) -> Values:
    given = {"home": home, "user": user, "path": f"{home}/nodes/a/b.conf", "content": "x = 1\n", **inputs}
    values, problems = FileHandler().check(given)
    assert problems == []
    return values


def test_a_file_is_written_with_owner_and_mode(home: str, user: str, account: Account) -> None:
    handler = FileHandler()
    inputs = filled(home, user, mode="0600")
    path, state = handler.create("f", inputs)
    found = os.stat(path)
    assert Path(path).read_text(encoding="utf-8") == "x = 1\n"
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert (found.st_uid, found.st_gid) == (account.uid, account.gid)
    assert os.stat(f"{home}/nodes").st_uid == account.uid
    assert [entry.name for entry in Path(path).parent.iterdir()] == ["b.conf"], (
        "a temporary file stays behind"
    )
    assert handler.read(path, state) == state
    assert not handler.diff(state, inputs)


def test_an_operators_file_belongs_to_the_operator(home: str, user: str) -> None:
    path, _ = FileHandler().create("f", filled(home, user, owner="operator", path=f"{home}/inventory.json"))
    assert os.stat(path).st_uid == operator().uid


def test_every_kind_of_hand_edit_is_seen_and_repaired(home: str, user: str, account: Account) -> None:
    handler = FileHandler()
    inputs = filled(home, user)
    path, state = handler.create("f", inputs)

    def seen() -> set[str]:
        found = handler.read(path, state)
        assert found is not None
        changes = set(handler.diff(found, inputs).changes)
        repaired = handler.update(path, found, inputs)
        assert handler.read(path, repaired) == state
        return changes

    Path(path).write_text("x = 2\n", encoding="utf-8")
    assert seen() == {"content"}
    os.chmod(path, 0o666)
    assert seen() == {"mode"}
    Path(path).write_bytes(b"\xff\xfe")
    assert seen() == {"content"}
    if os.geteuid() == 0:
        os.chown(path, 0, 0)
        assert seen() == {"ownership"}
    Path(path).unlink()
    assert handler.read(path, state) is None


def test_a_link_in_the_files_place_is_never_followed(home: str, user: str, empty: Path) -> None:
    handler = FileHandler()
    inputs = filled(home, user)
    path, state = handler.create("f", inputs)
    victim = empty / "victim"
    victim.write_text("precious", encoding="utf-8")
    Path(path).unlink()
    Path(path).symlink_to(victim)
    with pytest.raises(ProviderError, match="Too many levels of symbolic links"):
        handler.read(path, state)
    handler.update(path, state, inputs)
    assert victim.read_text(encoding="utf-8") == "precious"
    assert not Path(path).is_symlink()


def test_delete_removes_the_file_and_empty_folders_only(home: str, user: str) -> None:
    handler = FileHandler()
    path, state = handler.create("f", filled(home, user, path=f"{home}/nodes/a/deep/er/b.conf"))
    other, _ = handler.create("g", filled(home, user, path=f"{home}/nodes/a/c.conf"))
    handler.delete(path, state)
    assert not Path(home, "nodes/a/deep").exists()
    assert Path(other).exists()
    handler.delete(path, state)


def test_a_preview_knows_the_hash_when_it_knows_the_content(home: str, user: str) -> None:
    handler = FileHandler()
    inputs = filled(home, user)
    _, state = handler.create("f", inputs)
    assert handler.preview(None, inputs)["sha256"] == state["sha256"]
    assert handler.preview(None, {**inputs, "content": UNKNOWN})["sha256"] is UNKNOWN


@pytest.mark.parametrize(
    ("inputs", "property_name"),
    [
        ({"path": "/etc/passwd"}, "path"),
        ({"path": "HOME/nodes/../../x"}, "path"),
        ({"path": "HOME/.wms-platform"}, "path"),
        ({"mode": "640"}, "mode"),
        ({"mode": "4755"}, "mode"),
        ({"home": "/"}, "home"),
        ({"home": "/srv"}, "home"),
        ({"home": "relative/path"}, "home"),
        ({"home": "/srv/with space"}, "home"),
        ({"home": "/srv/" + "x" * 90}, "home"),
        ({"owner": "nobody"}, "owner"),
    ],
)
def test_wrong_inputs_are_named(inputs: dict[str, str], property_name: str) -> None:
    home = "/srv/wms"
    given = {"home": home, "path": f"{home}/f", "content": ""}
    given |= {key: value.replace("HOME", home) for key, value in inputs.items()}
    assert [problem.property for problem in FileHandler().check(given)[1]] == [property_name]


def test_a_folder_without_our_marker_is_left_alone(empty: Path, user: str) -> None:
    with pytest.raises(ProviderError, match=r"is not a platform's folder"):
        FileHandler().create("f", filled(str(empty), user))
    assert list(empty.iterdir()) == []
    (empty / "nodes").mkdir()
    with pytest.raises(ProviderError, match="not a folder of this platform"):
        homes.claim(str(empty))


@pytest.fixture
def tiny(empty: Path) -> Path:
    """A file system of 256 KiB."""
    place = empty / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0755", "none", str(place)], check=True)
    return place


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system to fill")
def test_a_full_disk_is_told_and_leaves_the_old_file(tiny: Path, user: str) -> None:
    try:
        home = str(tiny / "home")
        homes.claim(home)
        handler = FileHandler()
        path, _ = handler.create("f", filled(home, user))
        with pytest.raises(
            ProviderError, match=r"cannot write .*b\.conf: No space left on device\. Free space"
        ):
            handler.create("f", filled(home, user, content="x" * 1_000_000))
        assert Path(path).read_text(encoding="utf-8") == "x = 1\n"
        assert [entry.name for entry in Path(path).parent.iterdir()] == ["b.conf"]
    finally:
        subprocess.run(["umount", str(tiny)], check=True)


def test_accounts(user: str, account: Account, empty: Path) -> None:
    with pytest.raises(ProviderError, match="there is no system user 'no-such-user'"):
        service("no-such-user")
    if os.geteuid() == 0:
        with pytest.raises(ProviderError, match="servers do not run as root"):
            service("")
        empty.chmod(0o700)
        with pytest.raises(ProviderError, match=f"cannot reach .*: {empty} does not let it pass"):
            require_reachable(str(empty / "home" / "nodes"), account)


# -- releases --


@pytest.fixture
def sources(empty: Path) -> list[str]:
    package = empty / "code" / "wms"
    (package / "api").mkdir(parents=True)
    (package / "__init__.py").write_text("VERSION = 1\n", encoding="utf-8")
    (package / "api" / "app.py").write_text("x = 1\n", encoding="utf-8")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "junk.pyc").write_bytes(b"junk")
    (package / "web" / "dist").mkdir(parents=True)
    (package / "web" / "dist" / "index.html").write_text("<title>", encoding="utf-8")
    return [str(package)]


def release(home: str, user: str, sources: list[str]) -> Values:
    given = {"home": home, "user": user, "name": "wms", "sources": sources, "digest": digest(sources)}
    values, problems = ReleaseHandler().check(given)
    assert problems == []
    return values


def test_a_release_is_a_readable_verified_copy(home: str, user: str, sources: list[str]) -> None:
    handler = ReleaseHandler()
    old_umask = os.umask(0o077)
    try:
        identity, state = handler.create("release", release(home, user, sources))
    finally:
        os.umask(old_umask)
    copy = Path(state["path"], "wms")
    assert (copy / "api/app.py").read_text(encoding="utf-8") == "x = 1\n"
    assert not (copy / "__pycache__/junk.pyc").exists()
    assert not (copy / "web").exists(), "the frontend is a release of its own"
    assert all(path.stat().st_mode & 0o004 for path in copy.rglob("*")), "a server could not read it"
    assert handler.read(identity, state) == state
    (copy / "api/app.py").write_text("x = 2\n", encoding="utf-8")
    seen = handler.read(identity, state)
    assert seen is not None
    assert seen["state"] == "damaged"
    handler.update(identity, seen, release(home, user, sources))
    assert (copy / "api/app.py").read_text(encoding="utf-8") == "x = 1\n"


def test_the_built_frontend_is_released_by_itself(home: str, user: str, sources: list[str]) -> None:
    dist = f"{sources[0]}/web/dist"
    before = digest(sources)
    given = {"home": home, "user": user, "name": "web", "sources": [dist], "digest": digest([dist])}
    values, problems = ReleaseHandler().check(given)
    assert problems == []
    _, state = ReleaseHandler().create("release", values)
    page = Path(state["path"], "dist", "index.html")
    assert page.read_text(encoding="utf-8") == "<title>"
    assert page.stat().st_mode & 0o004
    Path(dist, "index.html").write_text("<title>new", encoding="utf-8")
    assert digest([dist]) != values["digest"]
    assert digest(sources) == before, "an edit of the frontend restarts the services"


def test_an_update_keeps_one_release_for_a_rollback(home: str, user: str, sources: list[str]) -> None:
    handler = ReleaseHandler()
    identity, state = handler.create("release", release(home, user, sources))
    digests = [state["digest"]]
    for number in (2, 3):
        Path(sources[0], "__init__.py").write_text(f"VERSION = {number}\n", encoding="utf-8")
        state = handler.update(identity, state, release(home, user, sources))
        digests.append(state["digest"])
    kept = {path.name for path in Path(state["path"]).parent.iterdir()}
    assert kept == set(digests[1:])
    assert state["previous"] == digests[1]
    handler.delete(identity, state)
    assert not Path(state["path"]).exists()
    assert handler.read(identity, state) is None


def test_the_digest_counts_content_names_and_executability(sources: list[str]) -> None:
    seen = {digest(sources)}
    path = Path(sources[0], "api/app.py")
    path.write_text("x = 3\n", encoding="utf-8")
    seen.add(digest(sources))
    path.chmod(0o755)
    seen.add(digest(sources))
    path.rename(path.with_name("other.py"))
    seen.add(digest(sources))
    assert len(seen) == 4
    Path(sources[0], "__pycache__/more.pyc").write_bytes(b"")
    assert digest(sources) in seen


def test_code_that_changes_meanwhile_is_refused(home: str, user: str, sources: list[str]) -> None:
    inputs = release(home, user, sources)
    Path(sources[0], "late.py").write_text("", encoding="utf-8")
    with pytest.raises(ProviderError, match="changed while it was copied"):
        ReleaseHandler().create("release", inputs)
    assert [p for p in Path(home, "release").rglob("*") if p.is_file()] == []


# -- passwords --


def test_a_password_is_stable_until_it_is_asked_for_anew() -> None:
    handler = PasswordHandler()
    inputs = handler.check({})[0]
    _, state = handler.create("p", inputs)
    assert len(state["value"]) == 32
    assert set(state["value"]) <= set(string.ascii_letters + string.digits)
    assert handler.read("p", state) == state
    assert handler.update("p", state, inputs)["value"] == state["value"]
    assert handler.update("p", state, {**inputs, "generation": 2})["value"] != state["value"]
    assert len(handler.update("p", state, {**inputs, "length": 40})["value"]) == 40
    assert [problem.property for problem in handler.check({"length": 4})[1]] == ["length"]
