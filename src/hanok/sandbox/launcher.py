"""What stands between the house and an untrusted program. Runs by itself (`python -I -S launcher.py ORDER`).

    launcher            waits
      └─ first process  of new namespaces: builds the walls, reaps, watches memory; when it ends the kernel ends all within
           └─ program   limits, no privileges, then the interpreter

Walls: namespaces for processes, network (none, not even loopback), mounts, IPC and host name; a file system of its own
that holds the interpreter and the system's libraries, read-only, and /box, which lies in memory and is bounded; a
filter of system calls. Started by root, the program becomes the user "nobody"; started by anybody else, it has no more
than a user namespace gives.

Without isolation the limits stay, and the file system and the network are those of the user.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
from typing import Any

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_SETATTR = 2, -100, 0x8000, 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
# name -> number on x86-64 and on aarch64: memory that belongs to no process, and doors that no program of ours needs
_FORBIDDEN = {
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "mount_setattr": (442, 442), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsmount": (432, 432), "fspick": (433, 433), "open_by_handle_at": (304, 265),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "kexec_load": (246, 104), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106),
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _EPERM, _SECCOMP, _FILTER = 0x7FFF0000, 0x00050001, 22, 2
_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS = 1, 4, 38
_NOBODY = 65534
_LIBRARIES = (
    "/usr",
    "/lib",
    "/lib64",
    "/lib32",
    "/libx32",
    "/bin",
    "/sbin",
    "/etc/ld.so.cache",
    "/etc/alternatives",
)
_DEVICES = ("null", "zero", "full", "random", "urandom")
_LOOK_EVERY = 0.05

_libc = ctypes.CDLL(None, use_errno=True)


def main(order: dict[str, Any]) -> None:
    status = int(order["status"])
    os.set_inheritable(status, False)
    with open(order["source"], "rb") as file:
        source = file.read()
    try:
        _die_with_parent()
        code = _isolated(order, source, status) if order["isolate"] else _limited(order, status)
    except OSError as error:
        _say(status, failed=str(error))
        code = 1
    os._exit(code)


def _isolated(order: dict[str, Any], source: bytes, status: int) -> int:
    root, outer = os.geteuid() == 0, (os.getuid(), os.getgid())
    fresh = _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS
    _check("unshare", _libc.unshare(fresh if root else fresh | _NEWUSER))
    if not root:
        _map_user(*outer)
    first = os.fork()
    if first:
        _, ended = os.waitpid(first, 0)
        return 0 if ended == 0 else 1
    try:
        _die_with_parent()
        settings = _build_walls(order, source)
        if not root:
            _forbid_namespaces(settings)
        child = _start(order, "/box/main.py", status, become_nobody=settings if root else None)
        return _look_after(child, order, status)
    except OSError as error:
        _say(status, failed=str(error))
        return 1


def _limited(order: dict[str, Any], status: int) -> int:
    os.chdir(order["folder"])
    child = _start(order, order["source"], status, become_nobody=None)
    return _look_after(child, order, status)


def _build_walls(order: dict[str, Any], source: bytes) -> int:
    """Put a new root together in memory, then leave the old one; returns a handle on the kernel's settings."""
    disk, base = order["limits"]["disk"], order["folder"]
    _mount("none", "/", "", _REC | _PRIVATE)  # nothing done here is seen outside
    _mount("tmpfs", base, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=0755")
    for path in (*_LIBRARIES, order["prefix"], os.path.dirname(order["python"])):
        _show(path, base)
    os.makedirs(f"{base}/dev")
    for name in _DEVICES:
        if os.path.exists(f"/dev/{name}"):
            open(f"{base}/dev/{name}", "w").close()
            _mount(f"/dev/{name}", f"{base}/dev/{name}", "", _BIND)
    os.makedirs(f"{base}/proc")
    settings = _mount_proc(f"{base}/proc")
    os.makedirs(f"{base}/box")
    _mount("tmpfs", f"{base}/box", "tmpfs", _NOSUID | _NODEV, f"size={disk},nr_inodes=4096,mode=0777")
    os.symlink("/box", f"{base}/tmp")
    with open(f"{base}/box/main.py", "wb") as file:
        file.write(source)
    _mount("tmpfs", base, "", _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    os.chdir(base)
    if platform.machine() not in _PIVOT_ROOT:
        raise OSError(f"pivot_root: no number known for {platform.machine()}")
    _check("pivot_root", _libc.syscall(_PIVOT_ROOT[platform.machine()], b".", b"."))
    _check("umount", _libc.umount2(b".", _DETACH))
    os.chdir("/box")
    return settings


def _show(path: str, base: str) -> None:
    """Make a path of the old root visible in the new one, read-only; links stay links."""
    here = base + path
    if not os.path.lexists(path) or os.path.lexists(here):
        return
    os.makedirs(os.path.dirname(here), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), here)
        return
    if os.path.isdir(path):
        os.mkdir(here)
    else:
        open(here, "w").close()
    _mount(path, here, "", _BIND | _REC)
    # struct mount_attr: set, clear, propagation, user namespace
    flags = (ctypes.c_uint64 * 4)(_RDONLY | _NOSUID | _NODEV, 0, 0, 0)
    arguments = (_AT_FDCWD, here.encode(), _AT_RECURSIVE, flags, ctypes.sizeof(flags))
    _check(f"read-only {path}", _libc.syscall(_MOUNT_SETATTR, *arguments))


def _mount_proc(target: str) -> int:
    """/proc with the program's own processes and nothing of the system; returns a handle on all of it for ourselves."""
    flags = _NOSUID | _NODEV | _NOEXEC
    _mount("proc", target, "proc", flags)
    whole = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    _check("umount /proc", _libc.umount2(target.encode(), _DETACH))
    _mount("proc", target, "proc", flags, "hidepid=2,subset=pid")
    return whole


def _forbid_namespaces(settings: int) -> None:
    """No user namespaces within: in one of its own the program could mount, and fill memory with files."""
    setting = os.open("sys/user/max_user_namespaces", os.O_WRONLY, dir_fd=settings)
    os.write(setting, b"0")
    os.close(setting)


def _start(order: dict[str, Any], program: str, status: int, *, become_nobody: int | None) -> int:
    """Fork, give up everything, become the interpreter. `become_nobody`: the kernel's settings, where we are root."""
    child = os.fork()
    if child:
        return child
    python = order["python"]
    try:
        if become_nobody is not None:
            _become_nobody(become_nobody)
        _check("prctl", _libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
        _limit(order["limits"])
        if order["isolate"]:
            _filter_system_calls()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execve(python, [python, "-I", "-B", "-X", "utf8", program], {})
    except BaseException as error:
        _say(status, failed=f"the program cannot be started: {error}")
    os._exit(126)


def _become_nobody(settings: int) -> None:
    """Another user, in a user namespace of its own, which counts its processes apart from those of other runs."""
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    _libc.prctl(_DUMPABLE, 1, 0, 0, 0)  # a change of user hides /proc/self from its new owner
    _check("unshare", _libc.unshare(_NEWUSER))
    _map_user(_NOBODY, _NOBODY)
    _forbid_namespaces(settings)


def _limit(limits: dict[str, Any]) -> None:
    seconds = limits["cpu_seconds"]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    for kind, value in (
        (resource.RLIMIT_FSIZE, limits["disk"]),
        (resource.RLIMIT_NOFILE, limits["files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_AS, limits["memory"]),
    ):
        resource.setrlimit(kind, (value, value))


def _filter_system_calls() -> None:
    """The forbidden calls fail with EPERM, and so do all of another calling convention."""
    if platform.machine() not in _ARCHITECTURES:
        raise OSError(f"no table of system calls for {platform.machine()}")
    column, convention = _ARCHITECTURES[platform.machine()]
    numbers = sorted(both[column] for both in _FORBIDDEN.values())
    # offset 4 of the call's record is its convention, offset 0 its number; jumps count instructions to skip
    refuse = len(numbers) + 1
    code = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, refuse + 2, convention),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, refuse, 0, _X32),
    ]
    code += [(_EQUAL, refuse - 1 - i, 0, number) for i, number in enumerate(numbers)]
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in code))
    record = struct.pack("HP", len(code), ctypes.addressof(program))
    _check("seccomp", _libc.prctl(_SECCOMP, _FILTER, record, 0, 0))


def _look_after(program: int, order: dict[str, Any], status: int) -> int:
    """Wait for the program, bury orphans, count memory; say how it ended. The end of this process ends the rest."""
    _libc.prctl(_DUMPABLE, 0, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    over = ""
    while True:
        pid, ended, usage = os.wait4(-1, os.WNOHANG)
        if pid == program:
            break
        if pid == 0:
            signal.sigtimedwait([signal.SIGCHLD], _LOOK_EVERY)
            if order["isolate"] and not over and _resident() > order["limits"]["memory"]:
                over = "memory"
                os.kill(-1, signal.SIGKILL)  # all within this namespace but ourselves
    cpu = usage.ru_utime + usage.ru_stime
    if os.WIFSIGNALED(ended):
        _say(status, signal=os.WTERMSIG(ended), cpu=cpu, over=over)
    else:
        _say(status, code=os.WEXITSTATUS(ended), cpu=cpu, over=over)
    return 0


def _resident() -> int:
    """Bytes of memory of every process within, pages that they share counted each time."""
    pages = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/statm") as file:
                    pages += int(file.read().split()[1])
            except OSError:
                continue  # it has just ended
    return pages * resource.getpagesize()


def _map_user(uid: int, gid: int) -> None:
    """Be the same user within a user namespace, so that no capability survives the interpreter's start."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    names = [name.encode() if name else None for name in (source, target, kind)]
    _check(
        f"mount {target}", _libc.mount(*names, ctypes.c_ulong(flags), options.encode() if options else None)
    )


def _die_with_parent() -> None:
    _libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _check(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _say(status: int, **words: Any) -> None:
    os.write(status, json.dumps(words).encode() + b"\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
