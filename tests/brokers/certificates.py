"""An authority of a test's own, and what it vouches for."""

import subprocess
from pathlib import Path

_NEW = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


class Authority:
    """Certificates and keys in a folder, as `NAME.pem` and `NAME.key`: its own, a server's at 127.0.0.1, and a client's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._certify("ca", "-addext", "keyUsage=critical,keyCertSign")
        for name in ("server", "client"):
            ours = ("-CA", str(self.certificate("ca")), "-CAkey", str(self.key("ca")))
            self._certify(name, *ours, "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1")

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    @property
    def options(self) -> str:
        """Of a URL: whom to trust, and who comes."""
        return f"ca={self.certificate('ca')}&cert={self.certificate('client')}&key={self.key('client')}"

    def _certify(self, name: str, *options: str) -> None:
        files = ["-subj", f"/CN={name}", "-keyout", str(self.key(name)), "-out", str(self.certificate(name))]
        subprocess.run([*_NEW, *files, *options], check=True, capture_output=True)
