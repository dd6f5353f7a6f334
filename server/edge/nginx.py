"""The edge: nginx as the only part of the server that answers the outside.

It asks every client for a certificate of the consortium's CA, lets through Flower's requests of clinics (`FLEET`) and
nothing else, and only with the node key that the certificate belongs to: Flower signs a timestamp but not the
request, so that a signature caught from one clinic would otherwise do for another for five minutes.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterable
from pathlib import Path

import psutil

from melfed.common.errors import ServerConfigError, ServiceError
from melfed.common.files import write_text
from melfed.server.clinics.registry import ClinicRecord
from melfed.server.config import ServerConfig
from melfed.server.edge.nginx_conf import Timeouts, nginx_text

_MINUTE = 60.0
_LARGEST_LOG = 16 * 2**20
_LAST_BYTES = 4096
_LAST_COMPLAINTS = 6
_COMPLAINT = r"\[emerg\] (?:\d+#\d+: )?(.*)"
_PROGRAMS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def nginx_configuration(config: ServerConfig, clinics: Iterable[ClinicRecord], timeouts: Timeouts | None = None) -> str:
    """Return the configuration of nginx for a server and its clinics.

    It changes whenever clinics or certificates do, since it names them; nginx is then told to read it again.

    Raises:
        ServerConfigError: a file of the kit is missing, or its path holds a character that nginx has a use for.
    """
    return nginx_text(config, tuple(clinics), timeouts or Timeouts(), _certificates_digest(config))


class Edge:
    """nginx's files below `state/nginx`, and its running process."""

    def __init__(self, config: ServerConfig, timeouts: Timeouts | None = None) -> None:
        self._config = config
        self._timeouts = timeouts
        self.folder = config.state / "nginx"
        self.configuration = self.folder / "nginx.conf"
        self.certificates = ""  # names those that the configuration was last tried with, by their digest

    def write(self, clinics: Iterable[ClinicRecord]) -> bool:
        """Write the configuration if it changed, and return whether it did. What nginx refuses is not written.

        Raises:
            ServerConfigError: a file of the kit is missing or unfit.
            ServiceError: nginx is not installed or refuses the configuration.
            StorageError: it cannot be written.
        """
        text = nginx_configuration(self._config, clinics, self._timeouts)
        certificates = text.partition("\n")[0]
        if self.configuration.is_file() and self.configuration.read_text(encoding="utf-8") == text:
            self.certificates = certificates
            return False
        self._config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        candidate = self.folder / "nginx.conf.new"
        write_text(candidate, text)
        self._test(candidate)
        candidate.replace(self.configuration)
        self.certificates = certificates
        return True

    def command(self) -> tuple[str, ...]:
        """Return the command that runs nginx in the foreground; `write` comes first.

        Its workers are in its process group. Whoever kills it with SIGKILL must end the group, or the workers keep the
        port.

        Raises:
            ServiceError: nginx is not installed.
        """
        return (*self._nginx(self.configuration), "-g", "daemon off;")

    def reload(self) -> bool:
        """Tell the running nginx to read its configuration again; return False where none runs.

        Requests under way are finished by the old workers; connections that idle are closed.
        """
        return self._signal(signal.SIGHUP)

    def trim_logs(self, largest: int = _LARGEST_LOG) -> bool:
        """Set logs of more than so many bytes aside (one old one is kept); return whether there were any.

        Strangers' refused requests are logged, so that whoever can reach the port could fill the disk otherwise.
        """
        large = [path for path in self.folder.glob("*.log") if path.stat().st_size > largest]
        for path in large:
            path.replace(path.with_name(f"{path.name}.1"))
        return bool(large) and self._signal(signal.SIGUSR1)

    def end_leftovers(self) -> int:
        """End the processes of an nginx before this one; return how many there were.

        Workers outlive a master that was killed: they keep the port, and go by the clinics that were let in then.
        """
        left = [process for process in psutil.process_iter() if _is_nginx(process) and self._is_ours(process)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return len(left)

    def _is_ours(self, process: psutil.Process) -> bool:
        """Tell whether a process has one of this edge's logs open; nginx writes over its arguments."""
        logs = {str((self.folder / name).resolve()) for name in ("error.log", "access.log")}
        with contextlib.suppress(psutil.Error):  # another user's, or it has ended
            return any(file.path in logs for file in process.open_files())
        return False

    def _test(self, configuration: Path) -> None:
        try:
            done = subprocess.run(  # noqa: S603 (the program that server.yaml names)
                [*self._nginx(configuration), "-t"], capture_output=True, text=True, timeout=_MINUTE, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServiceError(f"nginx cannot check its configuration: {error}; see that it is whole") from None
        if done.returncode:
            problems = re.findall(_COMPLAINT, done.stderr)
            problem = problems[0] if problems else done.stderr.strip().partition("\n")[0]
            raise ServiceError(f"nginx refuses its configuration, {configuration}: {problem}; mend server.yaml")

    def _nginx(self, configuration: Path) -> tuple[str, ...]:
        name = self._config.file.edge.nginx
        # Debian has it in a folder that is on the path of root alone.
        program = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_PROGRAMS]))
        if program is None:
            raise ServiceError(f"{name}: no such program; install it (apt-get install nginx-light), or mend edge.nginx")
        # -e: until the configuration is read, errors go here rather than to a folder of root's.
        return (program, "-p", f"{self.folder}/", "-c", str(configuration), "-e", str(self.folder / "error.log"))

    def _signal(self, number: signal.Signals) -> bool:
        try:
            process = psutil.Process(int((self.folder / "nginx.pid").read_text(encoding="ascii")))
            # The number may be another process's by now, if nginx was killed.
            if str(self.folder) not in _command(process):
                return False
            process.send_signal(number)
        except (OSError, ValueError, psutil.Error):
            return False
        return True


def edge_ready(config: ServerConfig, timeout: float = 1.0) -> bool:
    """Return whether this edge answers on its port, within `timeout` seconds: whoever does shows its certificate.

    That something listens there would be true of any other program that has taken the port.
    """
    address = config.file.edge.address
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 (compared only)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Not a chain and a name, but this one certificate is asked for.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        own = ssl.PEM_cert_to_DER_cert(_first_certificate(config.certificate.read_text(encoding="ascii")))
        with (
            socket.create_connection((local, config.file.edge.port), timeout) as plain,
            context.wrap_socket(plain) as answered,
        ):
            return answered.getpeercert(binary_form=True) == own
    except (OSError, ValueError):
        return False


def nginx_complaint(config: ServerConfig) -> str:
    """Return why nginx ended, in its own last words of `logs/nginx.log`; empty where it has said nothing."""
    try:
        with (config.logs / "nginx.log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    # An address that is taken is tried five times, and told as often.
    return "; ".join(dict.fromkeys(re.findall(_COMPLAINT, text)[-_LAST_COMPLAINTS:]))


def _first_certificate(text: str) -> str:
    """Return the first of a file's certificates, which is the server's own; those of authorities follow."""
    begin, end = ssl.PEM_HEADER, ssl.PEM_FOOTER
    return text[text.index(begin) : text.index(end) + len(end)]


def _is_nginx(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return _command(process).startswith("nginx: ")
    return False


def _command(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def _certificates_digest(config: ServerConfig) -> str:
    digest = hashlib.sha256()
    for path in (config.ca_certificate, config.certificate):
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise ServerConfigError(f"{path}: cannot be read: {error.strerror}; put the kit's own back") from None
    return digest.hexdigest()
