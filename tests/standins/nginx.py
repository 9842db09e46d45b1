"""Real nginx instances with real TLS, one process each, on separate loopback addresses, as pods have them.

    with Gateway(10, interval=0.2) as gateway:
        gateway.put(0, "token")          # known to instance 0 now, to the others within an interval

Debian's nginx and its Lua module serve; ``zone_sync.lua`` replicates a shared dictionary between them, which nginx
Plus does with zone_sync. Each instance has the same two ports on its address: TLS with the checked path ``/check``
and the keys, and plain HTTP for requests of peers and tests.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Self

from syncline.clients.replicas.instances import Instance
from tests.standins.certificates import Authority
from tests.standins.programs import ProgramAbsentError, program

HOST: Final = "gateway.example"
MODULES: Final = Path("/usr/lib/nginx/modules")
_LUA: Final = Path(__file__).parent / "zone_sync.lua"
_CONFIG: Final = """
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
daemon off;
master_process off;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path temp_body; proxy_temp_path temp_proxy; fastcgi_temp_path temp_fastcgi;
    uwsgi_temp_path temp_uwsgi; scgi_temp_path temp_scgi;
    large_client_header_buffers {buffers};
    lua_shared_dict zone 4m;
    lua_shared_dict changes 1m;
    lua_package_path "{lua}/?.lua;;";
    keepalive_timeout {keepalive}s;
    keepalive_requests 1000000;
    init_worker_by_lua_block {{
        require("zone_sync").start {{ address = "{address}", sync_port = {sync_port}, peers_file = "{peers}",
            interval = {interval}, delay = {delay}, deaf = {deaf}, mute = {mute} }}
    }}
    server {{
        listen {address}:{port} ssl backlog=1024;
        server_name {host};
        ssl_certificate {certificate}; ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        location = /check {{ content_by_lua_block {{ require("zone_sync").check() }} }}
        location /keys/ {{ client_max_body_size 1m; content_by_lua_block {{ require("zone_sync").keys() }} }}
        location = /moved {{ return 302 https://elsewhere.example/; }}
        location = /broken {{ return 500; }}
    }}
    server {{
        listen {address}:{sync_port} backlog=1024;
        location = /sync {{ content_by_lua_block {{
            local zone = require "zone_sync"
            zone.take(zone.body())
        }} }}
        location /keys/ {{ client_max_body_size 1m; content_by_lua_block {{ require("zone_sync").keys() }} }}
        location /api/ {{ content_by_lua_block {{ require("zone_sync").api() }} }}
        location = /all {{ content_by_lua_block {{
            ngx.print(table.concat(ngx.shared.zone:get_keys(0), "\\n"))
        }} }}
    }}
}}
"""


class Nginx:
    """One instance. ``delay`` (seconds) makes its answers slow; one that is ``deaf`` never receives its peers' keys.

    One that is ``mute`` never sends its own keys, which stay pending.
    ``buffers`` bounds the heads of requests; nginx's own default are four of 8 KiB.
    """

    def __init__(self, folder: Path, name: str, address: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        self.address = address
        self._folder = folder / name
        self._folder.mkdir()
        self._settings = {"delay": 0, "deaf": "false", "mute": "false", "keepalive": 75, "buffers": "4 8k", **settings}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process without waiting for it."""
        config = self._folder / "nginx.conf"
        config.write_text(_CONFIG.format(address=self.address, **self._settings))
        command = [program("nginx"), "-p", str(self._folder), "-c", str(config), "-e", "error.log"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def wait(self, port: int, limit: float = 30.0) -> None:
        """Wait until it accepts connections."""
        end = time.monotonic() + limit
        while True:
            try:
                socket.create_connection((self.address, port), 1).close()
            except OSError:
                assert self._process is not None
                log = self._folder / "error.log"
                output = log.read_text() if log.exists() else ""
                assert self._process.poll() is None, f"{self.name} ended: {output}"
                assert time.monotonic() < end, f"{self.name} does not listen: {output}"
                time.sleep(0.01)
            else:
                return

    def pause(self) -> None:
        """Suspend it: the kernel still accepts connections for it, but it does not answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Stop it; connections to it are refused from now on."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


class Gateway:
    """A number of instances that replicate to each other every ``interval`` seconds.

    ``settings`` has settings of single instances, by number. Those in ``strangers`` have an untrusted certificate. The
    first is usually the origin. ``address`` is that of a single instance that must not be on loopback.
    """

    def __init__(
        self,
        count: int,
        *,
        interval: float = 0.1,
        settings: Mapping[int, Mapping[str, Any]] | None = None,
        strangers: Collection[int] = (),
        keepalive: float = 75,
        address: str | None = None,
    ) -> None:
        assert address is None or count == 1, "a gateway with an address has only one instance"
        self.authority = Authority()
        self.interval = interval
        self._stack = contextlib.ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="nginx-")))
        lua = folder / "lua"
        lua.mkdir()
        (lua / _LUA.name).write_bytes(_LUA.read_bytes())
        self.port, self.sync_port = free_ports(2)
        # 127.0.0.0/8 is one host. Each gateway has a separate block of it, so that parallel tests do not collide.
        block = random.SystemRandom().randrange(2, 250)
        net = random.SystemRandom().randrange(16, 250)
        addresses = [address or f"127.{block}.{net}.{number + 1}" for number in range(count)]
        (folder / "peers").write_text("".join(f"{address}\n" for address in addresses))
        known = self._certificate(folder / "known", self.authority)
        unknown = self._certificate(folder / "unknown", Authority("Authority of nobody")) if strangers else known
        common = {
            "modules": _modules(),
            "lua": lua,
            "port": self.port,
            "sync_port": self.sync_port,
            "peers": folder / "peers",
            "interval": interval,
            "host": HOST,
            "keepalive": keepalive,
        }
        self.instances = [
            Nginx(
                folder,
                f"gateway-{number:03d}",
                address,
                {
                    **common,
                    **dict(zip(("certificate", "key"), unknown if number in strangers else known, strict=True)),
                    **(settings or {}).get(number, {}),
                },
            )
            for number, address in enumerate(addresses)
        ]

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as failing:
            failing.callback(self.__exit__)
            for instance in self.instances:
                instance.start()
            for instance in self.instances:
                instance.wait(self.port)
            failing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for instance in self.instances:
            instance.kill()
        self._stack.close()

    @property
    def listed(self) -> list[Instance]:
        """Return the instances as a cluster lists them."""
        return [Instance(one.name, one.address, self.port) for one in self.instances]

    def put(self, number: int, key: str, value: str = "1", *, visible: float | None = None) -> None:
        """Write a key through one instance; with ``visible`` only to that instance, valid from that Unix time."""
        path = f"/keys/{key}" + ("" if visible is None else f"?visible={visible:.6f}")
        assert self._request(number, "PUT", path, value)[0] == 201

    def put_everywhere(self, key: str, *, visible: float = 0.0, but: Collection[int] = ()) -> None:
        """Write a key to each instance separately."""
        for number in range(len(self.instances)):
            if number not in but:
                self.put(number, key, visible=visible)

    def delete(self, number: int, key: str) -> None:
        assert self._request(number, "DELETE", f"/keys/{key}")[0] == 204

    def has(self, number: int, key: str) -> bool:
        return self._request(number, "GET", f"/keys/{key}")[0] == 200

    def keys(self, instance: Nginx) -> bytes:
        """Return the names of all keys of an instance, one a line."""
        return self._request(self.instances.index(instance), "GET", "/all")[1]

    def first_yes(self, number: int, token: str) -> float:
        """Return the Unix time in seconds when an instance first reported that it has a token."""
        return float(self._request(number, "GET", f"/keys/first%20{token}")[1])

    def wait_until_all_have(self, key: str, limit: float = 30.0, *, but: Collection[int] = ()) -> None:
        end = time.monotonic() + limit
        for number in range(len(self.instances)):
            while number not in but and not self.has(number, key):
                assert time.monotonic() < end, f"{self.instances[number].name} does not receive {key}"
                time.sleep(0.01)

    def client_context(self) -> ssl.SSLContext:
        return self.authority.client_context()

    def _request(self, number: int, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.instances[number].address, self.sync_port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()

    @staticmethod
    def _certificate(folder: Path, authority: Authority) -> tuple[Path, Path]:
        folder.mkdir()
        return authority.write_server_files(folder, HOST)


def free_ports(count: int) -> list[int]:
    """Return loopback ports without a listener."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _modules() -> Path:
    """Return Debian's folder of the modules; without a full path nginx would search below its own folder."""
    program("nginx")
    if not (MODULES / "ngx_http_lua_module.so").exists():
        raise ProgramAbsentError("nginx has no Lua module: apt-get install libnginx-mod-http-lua")
    return MODULES
