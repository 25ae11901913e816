"""A headless Chromium with fonts, from Debian's archive, for the tests and pictures of the console."""

from pathlib import Path

from compose.native import debian, tools, versions
from compose.native.cache import Cache

NAME = "chromium"
KEY = f"chromium-{versions.CHROMIUM_SUITE}"
PACKAGES = ["chromium-headless-shell", "fonts-dejavu-core", "fonts-wqy-microhei"]  # the last one has Chinese

_LIBRARIES = tuple(
    f"{where}/*.so*" for where in ("lib/*-linux-gnu", "usr/lib/*-linux-gnu", "usr/lib/*-linux-gnu/pulseaudio")
)

# It runs with the C library of this machine: with another one, the processes that it starts would not find theirs.
_SCRIPT = """\
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
export LD_LIBRARY_PATH="$here/lib" FONTCONFIG_FILE="$here/fonts.conf"
exec "$here/chromium/chromium-headless-shell" "$@"
"""
_FONTS = """\
<?xml version="1.0"?>
<fontconfig>
  <dir prefix="relative">fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
  <alias>
    <family>sans-serif</family>
    <prefer><family>DejaVu Sans</family><family>WenQuanYi Micro Hei</family></prefer>
  </alias>
  <alias>
    <family>system-ui</family>
    <prefer><family>DejaVu Sans</family><family>WenQuanYi Micro Hei</family></prefer>
  </alias>
  <alias>
    <family>monospace</family>
    <prefer><family>DejaVu Sans Mono</family><family>WenQuanYi Micro Hei Mono</family></prefer>
  </alias>
</fontconfig>
"""


class Chromium:
    """A browser, which `fetch` fetches as it fetches the servers."""

    name = NAME

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    @property
    def program(self) -> Path:
        """The script that runs it; it exists once `fetch` has run."""
        return self._cache.folder(KEY) / "chromium-headless"

    def fetch(self) -> None:
        """Raises Unavailable."""
        _fetch(self._cache)


def _fetch(cache: Cache) -> None:

    def fill(part: Path) -> None:
        log = cache.root / f"{KEY}.log"
        debian.unpack(NAME, versions.CHROMIUM_SUITE, PACKAGES, part, log, without=("perl", "libc6", "libc-bin"))
        root = part / "root"
        (root / "usr/lib/chromium").rename(part / "chromium")
        (root / "usr/share/fonts").rename(part / "fonts")
        (part / "lib").mkdir()
        for where in _LIBRARIES:
            for library in sorted(root.glob(where)):
                library.rename(part / "lib" / library.name)
        (part / "fonts.conf").write_text(_FONTS)
        script = part / "chromium-headless"
        script.write_text(_SCRIPT)
        script.chmod(0o755)
        tools.remove(part / "apt")
        tools.remove(root)

    tools.need_machine(NAME, "x86_64", "aarch64")
    cache.fill_once(NAME, KEY, fill)
