"""Start the server: ``python -m monailabel_app.serve --studies FOLDER_OR_DICOMWEB_URL``.

The options are those of ``monailabel start_server``; here the app is this one and the server listens on this machine
alone (``--host 0.0.0.0``: to everyone).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from monailabel.main import Main


def main() -> None:
    launcher = Main(actions="start_server")
    parser = argparse.ArgumentParser("python -m monailabel_app.serve", description=__doc__.splitlines()[0])
    launcher.args_start_server(parser)
    parser.set_defaults(app=str(Path(__file__).parent), host="127.0.0.1", uvicorn_app="monailabel_app.lib.api:app")
    launcher.action_start_server(parser.parse_args())


if __name__ == "__main__":
    main()
