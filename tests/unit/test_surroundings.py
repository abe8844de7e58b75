"""Mounts and machines as they are: what they lack is done without, or told in one line."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from brightness import draw
from odd_mount import odd_mount

from catdog import cli
from catdog.recipe import Recipe, to_toml
from tests.pace import within

ROOT = Path(__file__).parents[2]
CATDOG = (sys.executable, "-m", "catdog")
SWAP = """
import sys
from catdog.command.program import run_program
from catdog.storage import open_bucket
run_program("catdog", lambda: 0 * open_bucket(sys.argv[1]).swap("lease.json", b"{}", None).size)
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(40):
        draw(folder / ("cat", "dog")[index % 2] / f"{index}.png", index, bright=index % 2 == 1, size=(48, 40))
    return folder


def ended(words: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, **options)


def prepared(photos: Path, data: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return ended([*CATDOG, "prepare", f"folder:{photos}", data, "--shards", "2"], **options)


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines on stderr, without the bar of pictures."""
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if not line.startswith("pictures")]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_mount_that_sets_no_modes_and_syncs_no_folders_holds_a_data_set(
    number: int, photos: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    done = prepared(photos, data, env=odd_mount(data, tmp_path / "odd.so", chmod=errno.EPERM, fsyncdir=number))
    assert (done.returncode, told(done)) == (0, [])
    assert cli.run(["verify", str(data)]) == 0


def test_a_folder_that_a_disk_fails_to_sync_is_told_of_once_and_ends_nothing(photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = prepared(photos, data, env=odd_mount(data, tmp_path / "odd.so", fsyncdir=errno.EIO))
    assert done.returncode == 0
    (line,) = told(done)
    assert line.startswith(f"{data}: folders cannot be synced: Input/output error")


def test_a_file_that_a_disk_fails_to_keep_ends_the_command(photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = prepared(photos, data, env=odd_mount(data, tmp_path / "odd.so", fsync=errno.EIO))
    assert done.returncode == 1
    (line,) = told(done)
    assert line == f"catdog: failed: Input/output error: {data}/.catdog-write-test"
    assert not data.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP], ids=errno.errorcode.get)
def test_a_mount_without_locks_is_told_with_what_would_be_right(number: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = ended([sys.executable, "-c", SWAP, run], env=odd_mount(run, tmp_path / "odd.so", flock=number))
    assert done.returncode == 2
    (line,) = told(done)
    assert line.startswith(f"catdog: error: {run}/.lock: cannot be locked: {os.strerror(number)}; ")
    assert "use a folder on another one" in line


def test_a_folder_of_a_cluster_without_locks_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    words = [sys.executable, "-m", "infra.cluster", "--folder", folder, "down"]
    done = ended(words, env=odd_mount(folder, tmp_path / "odd.so", flock=errno.ENOLCK))
    assert done.returncode == 2
    assert told(done) == [
        f"infra.cluster: error: {folder}: cannot be locked: No locks available; give a --folder on another file system"
    ]


BUILT = """
import os, sys
from catdog.command.quiet_tensorflow import import_tensorflow
import_tensorflow()
import keras
from catdog.model import build
from catdog.recipe import Model
model = build(Model(), 32)
print(keras.backend.backend(), keras.config.floatx(), keras.config.epsilon(), model.layers[0].output_shape)
print(os.environ["TF_FORCE_GPU_ALLOW_GROWTH"])
model.save(sys.argv[1])
"""


def test_a_model_is_built_whatever_keras_is_set_to_and_from_weights_that_cannot_be_locked(tmp_path: Path) -> None:
    settings = '{"backend": "jax", "floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first"}'
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text(settings)
    environment = odd_mount(ROOT / "catdog/weights", tmp_path / "odd.so", flock=errno.ENOLCK)
    environment |= {"HOME": str(tmp_path), "KERAS_BACKEND": "torch"}
    environment |= {"PYTHONWARNINGS": "error"}
    environment |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # as a notebook's commands inherit it
    environment.pop("KERAS_HOME", None)
    done = ended([sys.executable, "-c", BUILT, str(tmp_path / "model.keras")], env=environment)
    assert done.stdout == "tensorflow float32 1e-07 (None, 1, 1, 1280)\ntrue\n", done.stderr


IMPORTED = """
from catdog.command.program import run_program
from catdog.command.quiet_tensorflow import import_tensorflow
run_program("catdog", import_tensorflow)
"""


def test_settings_that_keras_refuses_are_told_with_their_file(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text('{"floatx": "float12"}')
    done = ended([sys.executable, "-c", IMPORTED], env=os.environ | {"KERAS_HOME": str(tmp_path)})
    assert done.returncode == 2
    (line,) = told(done)
    assert line.startswith(f"catdog: error: {tmp_path}/keras.json: Keras refuses these settings: Invalid `floatx`")


@pytest.mark.parametrize(
    ("end", "code", "last"),
    [
        ("os.abort()", -signal.SIGABRT, "made for other processors"),
        ("os.kill(os.getpid(), signal.SIGILL)", -signal.SIGILL, "made for other processors"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "made for other processors"),
        (
            "raise ImportError('libx.so: no such file')",
            1,
            "catdog: failed: TensorFlow cannot be imported: ImportError in tensorflow: libx.so: no such file",
        ),
    ],
)
def test_what_tensorflow_wrote_is_shown_when_it_cannot_be_imported(
    end: str, code: int, last: str, tmp_path: Path
) -> None:
    fake = f"import os, signal\nos.write(2, b'made for other processors\\n')\n{end}\n"
    (tmp_path / "tensorflow.py").write_text(fake)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = ended([sys.executable, "-c", IMPORTED], env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == code
    assert "while TensorFlow was imported this was written:\nmade for other processors\n" in done.stderr
    assert done.stderr.splitlines()[-1] == last


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_while_tensorflow_is_imported_is_not_told_as_a_failure_of_it(number: int, tmp_path: Path) -> None:
    fake = "import os, sys, time\nos.write(2, b'made for other processors\\n')\nprint('here', flush=True)\ntime.sleep(600)\n"
    (tmp_path / "tensorflow.py").write_text(fake)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    heard = f"import signal\nsignal.signal({int(number)}, signal.SIG_DFL)\n"  # which nohup, for one, lets nobody hear
    process = subprocess.Popen(
        [sys.executable, "-c", heard + IMPORTED],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    process.send_signal(number)
    _, written = process.communicate(timeout=within(60))
    assert (process.returncode, written) == (-number, "")


LONG = "x" * 300
HOSTILE_PATHS = {
    "a name too long": (LONG, "File name too long"),
    "a path too long": ("/".join(["x" * 100] * 60), "more than 4,096 characters"),
    "a link to itself": ("loop", "Too many levels of symbolic links"),
    "a path below one": ("loop/data", "Too many levels of symbolic links"),
    "a path below a file": ("file/data", "a file is where a folder must be"),
}


@pytest.mark.parametrize(("path", "words"), HOSTILE_PATHS.values(), ids=HOSTILE_PATHS)
@pytest.mark.parametrize(
    "command", ["prepare drawn {}", "verify {}", "runs {}", "predict {} x", "evaluate {}", "pull {} y", "train {}"]
)
def test_a_path_that_leads_nowhere_is_one_line(
    command: str,
    path: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("file").write_text("x")
    code = cli.run(command.format(path).split())
    out, err = capsys.readouterr()
    assert code in (1, 2) and out == ""
    assert err.startswith("catdog: ") and err.count("\n") == 1 and path[:100] in err
    if command.startswith("prepare"):
        assert words in err
        assert not Path(path[:100]).is_dir()


def test_a_link_to_itself_among_runs_hides_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/recipe.toml").write_text(to_toml(Recipe()))
    assert cli.run(["runs", str(tmp_path)]) == 0
    assert "photos  begun" in capsys.readouterr().out


def test_a_file_that_grows_past_the_limit_is_told_and_nothing_is_left(photos: Path, tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = prepared(photos, tmp_path / "data", preexec_fn=limited)
    assert (done.returncode, told(done)) == (1, [f"catdog: failed: File too large: {tmp_path}/data"])
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".lock"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_nowhere_and_no_file_takes_its_place(closed: str, photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = f'"$@" {closed}'
    done = ended(["sh", "-c", command, "sh", *CATDOG, "prepare", f"folder:{photos}", data, "--shards", "2"])
    assert (done.returncode, told(done)) == (0, [])
    assert cli.run(["verify", str(data)]) == 0
    done = ended(["sh", "-c", command, "sh", *CATDOG, "verify", tmp_path / "none"])
    assert done.returncode == 2
    assert told(done) == [] or "2>" not in closed


@pytest.mark.parametrize("words", ["runs .", "--help", "train --help", "verify none"])
def test_a_reader_that_has_gone_hears_no_complaint(words: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(to_toml(Recipe()))
    reading, writing = os.pipe()
    os.close(reading)
    for streams in ({"stdout": writing, "stderr": subprocess.PIPE}, {"stdout": writing, "stderr": writing}):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([*CATDOG, *words.split()], cwd=tmp_path, env=environment, text=True, **streams)
        assert done.returncode == (2 if words == "verify none" else 1)
        assert not done.stderr or (words == "verify none" and done.stderr.count("\n") == 1)
    os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("words", ["--help", "--version"])
def test_standard_output_on_a_full_disk_is_told(words: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*CATDOG, words], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    (line,) = told(done)
    assert line.startswith("catdog: failed: No space left on device")


def homeless(**changed: str) -> dict[str, str]:
    """An environment without a home; of a user whom the system does not know, for it would tell."""
    return {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")} | changed


UNKNOWN_USER = "import pwd; pwd.getpwuid = lambda number: {}[number]\n"


def test_a_home_that_is_not_known_is_told_where_it_is_asked_for(photos: Path, tmp_path: Path) -> None:
    for words in (
        ["verify", "~/data"],
        ["verify", "~nobody-here/data"],
        ["prepare", "folder:~/photos", tmp_path / "x"],
    ):
        done = ended(
            [sys.executable, "-c", f"{UNKNOWN_USER}from catdog import cli; cli.main()", *words], env=homeless()
        )
        assert done.returncode == 2
        (line,) = told(done)
        assert "no home directory is known here: set HOME, or give the whole path" in line
    done = ended([sys.executable, "-c", UNKNOWN_USER + IMPORTED], env=homeless())
    assert done.returncode == 2
    assert told(done) == ["catdog: error: ~: no home directory is known here: set HOME, or give the whole path"]


def test_commands_need_neither_a_home_nor_a_temporary_folder(photos: Path, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    environment = homeless(TMPDIR=gone, HOME=gone)
    done = prepared(photos, tmp_path / "data", env=environment)
    assert (done.returncode, told(done)) == (0, [])
    for words in (["verify", tmp_path / "data"], ["runs", tmp_path]):
        assert ended([*CATDOG, *words], env=environment).returncode == 0


NO_TEMPORARY = """
import os, tempfile
tempfile._candidate_tempdir_list = lambda: ["/none/here"]
from catdog import cli
from catdog.recipe import Recipe, to_toml
cli.main()
"""


def test_a_missing_temporary_folder_is_told(tmp_path: Path, store: Any) -> None:
    done = ended([sys.executable, "-c", NO_TEMPORARY, "prepare", "drawn", "gs://bucket/data"])
    assert done.returncode == 1
    assert told(done) == ["catdog: failed: No usable temporary directory found in ['/none/here']"]
    (tmp_path / "tensorflow.py").write_text("import tempfile\ntempfile.gettempdir()\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = ended(
        [sys.executable, "-c", NO_TEMPORARY.partition("from catdog")[0] + IMPORTED],
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 1
    assert told(done) == ["catdog: failed: No usable temporary directory found in ['/none/here']"]


def test_credentials_that_are_a_folder_are_told(tmp_path: Path) -> None:
    environment = os.environ | {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path)}
    environment.pop("STORAGE_EMULATOR_HOST", None)
    done = ended([*CATDOG, "runs", "gs://bucket"], env=environment)
    assert done.returncode in (1, 2)
    (line,) = told(done)
    assert str(tmp_path) in line and "directory" in line.lower()


@pytest.mark.parametrize("fake", ["sys.platform = 'win32'", "sys.modules['fcntl'] = None"])
@pytest.mark.parametrize("program", ["catdog.__main__", "job.train"])
def test_another_system_is_told_which_would_be_right(fake: str, program: str) -> None:
    start = f"import sys; {fake}; from {program} import main; main()"
    done = ended([sys.executable, "-c", start, "runs", "."])
    assert done.returncode == 2
    (line,) = told(done)
    assert line.endswith("needs Linux or macOS; on Windows, run it in WSL 2 or in the container")


SLOW_IMPORT = "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"


@pytest.mark.parametrize("program", ["catdog", "job.train", "job.submit"])
def test_ctrl_c_while_a_program_begins_is_one_line(program: str, tmp_path: Path) -> None:
    (tmp_path / "tyro.py").write_text(SLOW_IMPORT)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, "-m", program, "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == f"{program}: interrupted\n"
        assert process.returncode == 130


def children(pid: int) -> int:
    return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.3, 0.6])
def test_ctrl_c_while_processes_begin_is_one_line(delay: float, photos: Path, tmp_path: Path) -> None:
    program = "import os; os.process_cpu_count = lambda: 4; from catdog import cli; cli.main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "prepare", "drawn", tmp_path / "data"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 120
        while children(process.pid) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert [line for line in err.splitlines() if line and "pictures" not in line] == ["catdog: interrupted"]
