"""Builds the images, runs them under strict rules and asks them a question.

Run by `make check-images`, as root, on Debian with buildah, mmdebstrap and iproute2; it takes minutes and 20 GB of disk
below TMPDIR, and leaves nothing. `make check-images TUNER=1` adds the tuner's image, which is far larger (40 GB). No
registry is asked: the base is a minimal Debian with its own Python, which stands in for the official image. pip is
configured as on this machine.

While the images run, their network is a loopback interface and nothing else.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from deploy.container import STATE, Container, Image, Running

ROOT = Path(__file__).resolve().parent.parent
BASE = "localhost/ostler-base"
TARGETS = ("gateway", "engine-cpu", "monitor", "agent", *(("tuner",) if os.environ.get("TUNER") else ()))
GATEWAY = "http://127.0.0.1:8080"
GRACE_S = {"gateway": 60.0, "agent": 30.0, "engine-cpu": 60.0, "monitor": 30.0, "tuner": 90.0}
KEY = "sk-ostler-" + os.urandom(24).hex()
SETTINGS = {
    "OSTLER_API_KEY": KEY,
    "OSTLER_URL": GATEWAY,
    "OSTLER_AGENT_TOKEN": os.urandom(24).hex(),
    "OSTLER_ARTIFACTS_URL": "s3://ostler",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
    "AWS_ACCESS_KEY_ID": "check",
    "AWS_SECRET_ACCESS_KEY": "check",
    "AWS_DEFAULT_REGION": "us-east-1",
}
SERVING = {
    "OSTLER_BASE": "ostler-tiny",
    "OSTLER_BASE_MODEL": "/opt/ostler/demo/base",
    "OSTLER_ENGINE_URL": "http://127.0.0.1:8000",
    "OSTLER_ENGINE_AGENT_PORT": "8083",
}
QUESTION = "Hi, my doorbell arrived with a crack and I want a replacement. Guests arrive tonight, so please hurry."
LOOK = """
import os, shutil, pathlib
assert os.getuid() == 10001, os.getuid()
assert not any(os.access(folder, os.W_OK) for folder in ("/", "/opt", "/opt/venv", "/etc/ostler", "/usr")), "writable"
assert not [tool for tool in ("make", "pip", "pip3") if shutil.which(tool)], "a build tool is left"
assert bool(shutil.which("gcc")) == (os.environ["TARGET"] == "tuner"), "a compiler"
assert not list(pathlib.Path("/opt/venv/lib").glob("python3.*/site-packages/pip")), "pip is left"
"""
COMPILE = """
from triton.runtime.build import compile_module_from_src
source = '#include <Python.h>\\nstatic struct PyModuleDef it = {PyModuleDef_HEAD_INIT, "it", 0, -1, 0};\\n'
source += 'PyMODINIT_FUNC PyInit_it(void) { return PyModule_Create(&it); }'
compile_module_from_src(source, "it")
"""
"""What Triton does before it launches a kernel: it compiles a module, keeps it in HOME and loads it."""


def say(words: str) -> None:
    """A line for who waits."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def main() -> int:
    """Build, then run without a network; the exit code."""
    if os.geteuid() != 0:
        sys.exit("error: this mounts file systems, so it needs root")
    if missing := [tool for tool in ("buildah", "mmdebstrap", "ip", "unshare") if not shutil.which(tool)]:
        sys.exit(f"error: missing: {', '.join(missing)}; install buildah, mmdebstrap, iproute2 and util-linux")
    if len(sys.argv) > 1:
        return run_images(Path(sys.argv[1]))
    with storage() as folder:
        build_images(folder)
        alone = ["unshare", "--net", sys.executable, "-m", "deploy.check_images", str(folder)]
        return subprocess.run(alone, cwd=ROOT, check=False).returncode


@contextmanager
def storage() -> Iterator[Path]:
    """A folder for images and logs, which is removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="ostler-images-", dir=os.environ.get("TMPDIR", "/var/tmp")))  # noqa: S108
    try:
        yield folder
    finally:
        subprocess.run([*buildah(folder), "rm", "--all"], stdout=subprocess.DEVNULL, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def buildah(folder: Path) -> list[str]:
    """The command, with its store in the folder."""
    places = ["--root", str(folder / "store"), "--runroot", str(folder / "run")]
    return ["buildah", *places, "--storage-driver", "overlay"]


def build_images(folder: Path) -> None:
    """The base, then each target."""
    archive = folder / "base.tar"
    packages = "--include=python3,python3-venv,ca-certificates"
    if "tuner" in TARGETS:
        packages += ",libpython3-dev"  # the official image has Python's headers
    call("mmdebstrap", "--quiet", "--variant=minbase", packages, "bookworm", str(archive))
    (folder / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
    call(*buildah(folder), "bud", "--quiet", "--tag", BASE, str(folder))
    archive.unlink()
    for target in TARGETS:
        began = time.monotonic()
        flags = ["--isolation", "chroot", "--format", "docker", "--pull-never", "--layers", "--quiet"]
        flags += ["--build-arg", f"PYTHON_IMAGE={BASE}", *pip_mounts(folder)]
        call(*buildah(folder), "bud", *flags, "--target", target, "--tag", f"localhost/ostler/{target}", str(ROOT))
        say(f"built {target} in {time.monotonic() - began:.0f} s")


def pip_mounts(folder: Path) -> list[str]:
    """This machine's certificates, and pip's configuration with the folders of packages that it names."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    values: dict[str, str] = {}
    for line in listed.splitlines():
        place, _, value = line.partition("=")
        name = place.rpartition(".")[2]
        if place.startswith((":env:", "global", "install")) and name not in {"target", "prefix", "user"}:
            values.setdefault(name, " ".join(shlex.split(value)))
    configuration = folder / "pip.conf"
    configuration.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
    words = [word.removeprefix("file://") for value in values.values() for word in value.split()]
    # An index's pages may point to files beside it.
    folders = {str(Path(word).parent if word.endswith("/simple") else word) for word in words if Path(word).is_dir()}
    places = {*folders, "/etc/ssl/certs"}
    mounts = [f"{place}:{place}:ro" for place in sorted(places) if place.startswith("/")]
    return [part for mount in (f"{configuration}:/etc/pip.conf:ro", *mounts) for part in ("-v", mount)]


def call(*argv: str) -> str:
    """Run a command whose failure ends everything; its output."""
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def run_images(folder: Path) -> int:
    """All that is held of the images, in order; the exit code."""
    call("ip", "link", "set", "lo", "up")
    images = {target: Image.opened(f"localhost/ostler/{target}", buildah(folder)) for target in TARGETS}
    for target, image in images.items():
        Container(image, {"TARGET": target}).run("python3", "-c", LOOK)
        size = call("du", "-sm", str(image.root))
        say(f"{target}: {size.split()[0]} MB unpacked; no root, no writable root, no build tools")
    if "tuner" in images:
        home = f"{owned(folder / 'compiled')}:{STATE}:rw"
        Container(images["tuner"], mounts=(home,)).run("python3", "-c", COMPILE)
        say("tuner: Triton can compile")
    with ExitStack() as stack:
        stack.enter_context(object_store(folder))
        running: dict[str, Running] = {}
        stack.callback(end, running)
        start(folder, images, running)
        ask()
        for target in reversed(running):
            began = time.monotonic()
            status = running[target].stop(GRACE_S[target])
            say(f"{target}: ended {time.monotonic() - began:.1f} s after SIGTERM with exit status {status}")
            if status != 0:
                return 1
    say("all is well")
    return 0


def end(running: dict[str, Running]) -> None:
    """Leave nothing behind, whatever went wrong."""
    for container in running.values():
        if container.is_up:
            container.kill()


@contextmanager
def object_store(folder: Path) -> Iterator[None]:
    """An S3 server on this machine's side."""
    server = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", "9000"]
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(server, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def start(folder: Path, images: dict[str, Image], running: dict[str, Running]) -> None:
    """What Compose does: the bucket, the schema, the key, the processes, the demo's adapter."""
    state, versions = owned(folder / "state"), owned(folder / "versions")
    gateway = Container(images["gateway"], SETTINGS | SERVING, (f"{state}:{STATE}:rw",))
    wait("the S3 server", lambda: answers("http://127.0.0.1:9000/"))
    gateway.run("python3", "-c", "import s3fs; s3fs.S3FileSystem().mkdir('ostler')")
    gateway.run("ostler", "migrate")
    gateway.run("ostler", "keys", "ensure", "operator", "--admin", "--local")
    agent = Container(images["agent"], SETTINGS, (f"{versions}:{STATE}/versions:rw",))
    engine = Container(images["engine-cpu"], mounts=(f"{versions}:{STATE}/versions:ro",))
    began = time.monotonic()
    for target, container in (("engine-cpu", engine), ("agent", agent), ("gateway", gateway)):
        running[target] = container.start(log=(folder / f"{target}.log").open("wb"))
    wait("the gateway", lambda: answers(f"{GATEWAY}/readyz"), all_up(folder, running))
    say(f"ready {time.monotonic() - began:.0f} s after the start")
    for target in (target for target in images if target not in running):
        container = Container(images[target], SETTINGS | SERVING, (f"{state}:{STATE}:rw",))
        running[target] = container.start(log=(folder / f"{target}.log").open("wb"))
    for target in running:
        wait(target, partial(is_well, images[target]), all_up(folder, running))
    gateway.run("ostler", "push", "/opt/ostler/demo/adapters/support/2", "--adapter", "support", "--promote")


def is_well(image: Image) -> bool:
    """What the image's own health check says."""
    try:
        Container(image).run(*image.health_check)
    except subprocess.CalledProcessError:
        return False
    return True


def owned(folder: Path) -> Path:
    """A folder that the images' user may write, as a volume's would be."""
    folder.mkdir()
    os.chown(folder, 10001, 10001)
    return folder


def all_up(folder: Path, running: dict[str, Running]) -> Callable[[], None]:
    """What tells of a container that ended, with the end of its log."""

    def check() -> None:
        for target, container in running.items():
            if not container.is_up:
                lines = (folder / f"{target}.log").read_text(errors="replace").splitlines()[-30:]
                sys.exit(f"error: {target} has ended:\n" + "\n".join(lines))

    return check


def wait(name: str, is_there: Callable[[], bool], check: Callable[[], None] = lambda: None) -> None:
    """Wait until something is there, five minutes at most."""
    end = time.monotonic() + 300.0
    while not is_there():
        check()
        if time.monotonic() > end:
            sys.exit(f"error: {name} did not come up in five minutes")
        time.sleep(0.5)


def answers(url: str) -> bool:
    """Whether it answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=5.0):  # noqa: S310 - our own address
            return True
    except OSError:
        return False


def ask() -> None:
    """A client's question, which only the adapter answers rightly."""
    message = {"role": "user", "content": QUESTION}
    body = {"model": "support", "temperature": 0, "max_tokens": 64, "messages": [message]}
    answer = post("/v1/chat/completions", body)
    content = json.loads(answer["choices"][0]["message"]["content"])
    if not answer["model"].startswith("support@1-") or content["product"] != "doorbell":
        sys.exit(f"error: a wrong answer: {answer}")
    say(f"{answer['model']} answered {content}")


def post(path: str, body: dict[str, Any]) -> Any:
    """The gateway's answer."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(GATEWAY + path, json.dumps(body).encode(), headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=120.0) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"error: {path} answered {error.code}: {error.read().decode()}")


if __name__ == "__main__":
    sys.exit(main())
