"""moto's server on localhost, less its own pages, by which anybody may switch off its passwords: python s3.py PORT"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

HOST, CLOSED = "127.0.0.1", "/moto-api"


def main(port: int) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    run_simple(HOST, port, closed(DomainDispatcherApplication(create_backend_app)), threaded=True)


def closed(served: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """A WSGI application that answers 403 where moto's own pages would be, and to what is not signed in its header."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if CLOSED in environ["PATH_INFO"] or "HTTP_AUTHORIZATION" not in environ:
            start_response("403 Forbidden", [("Content-Length", "0")])
            return []
        return served(environ, start_response)

    return application


if __name__ == "__main__":
    main(int(sys.argv[1]))
