"""What goes wrong with a store, and what the operating system refused, with what to do about it."""

import errno
import os


class StoreError(Exception):
    """An activation store that is damaged, unfinished, or not what was asked for; says where, what and what to do."""


class UnfitRows(StoreError):
    """Rows that no store may hold (a NaN, a value beyond the encoding), or that cannot be read where they lie."""


_FREE = "free some, or choose another disk, and run the same command again"
_ADVICE = {
    errno.EMFILE: "the file is not damaged: raise the limit of open files of this shell, for example `ulimit -n 65536`",
    errno.ENFILE: "the file is not damaged: the whole machine has too many files open; close some programs",
    errno.ENOMEM: "the file is not damaged: memory, or the number of maps a process may have (vm.max_map_count), is "
    "used up; free some, or set store.io to pread",
    errno.EACCES: "ask its owner for the right to do that, or change the mode of the file and of its folders",
    errno.EPERM: "ask its owner for the right to do that, or change the mode of the file and of its folders",
    errno.ENOENT: "it was deleted or moved; put it back, or fetch it again",
    errno.ENOTDIR: "a part of this path is a file; put the folder back, or fetch it again",
    errno.ESTALE: "the network file system lost it: its server was restarted, or the file was replaced there; run the "
    "same command again",
    errno.ETIMEDOUT: "the network file system did not answer; run the same command again",
    errno.EIO: "the disk or the network failed: look into the kernel's log (dmesg), and fetch the file again if the "
    "error stays",
    errno.ELOOP: "it is a link, and a store holds no links; put the file itself there",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EFBIG: "this file system, or a limit of this shell (`ulimit -f`), allows no file of that size; choose "
    "another disk",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def explain(error: OSError) -> str:
    """What happened, and what to do where that is known: `Too many open files; ... raise the limit ...`.

    The caller names the path.
    """
    what = error.strerror or (os.strerror(error.errno) if error.errno else str(error) or type(error).__name__)
    advice = _ADVICE.get(error.errno or 0)
    return f"{what}; {advice}" if advice else what
