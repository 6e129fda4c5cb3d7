"""Encryption of the service's ports, and of its calls to the model servers."""

from __future__ import annotations

import json
import shutil
import ssl
import urllib.error
import urllib.request

import pytest

from serving.client import Tls, UnavailableError
from serving.client.ranking import RankingClient, RankingRequest
from serving.model_server import ServerConfig, running
from serving.ranking_service import ServiceConfig, running_service
from tests.serving.certificates import make_certificates, ssl_config
from tests.serving.ranking_service.conftest import UNHURRIED, settings

needs_openssl = pytest.mark.skipif(
    not shutil.which("openssl"), reason="needs openssl"
)


@needs_openssl
def test_everything_encrypted_on_both_sides(site, muse_base, tmp_path) -> None:
    """Certificates are asked for everywhere; without one there is no call."""
    pem = make_certificates(tmp_path)
    file = str(ssl_config(pem, tmp_path, True))
    known = {
        "ca_file": str(pem / "ca.pem"),
        "certificate_file": str(pem / "client.pem"),
        "key_file": str(pem / "client.key"),
    }
    request = site.request()
    question = RankingRequest(request.user_id, request.candidate_item_ids)
    server = ServerConfig(
        model_base_path=str(muse_base),
        port=0,
        rest_api_port=-1,
        ssl_config_file=file,
    )
    with running(server) as models:
        changes = {
            "targets": (models.grpc_target,),
            "matching_model": "",
            "ssl_config_file": file,
            "target_tls": known,
            **UNHURRIED,
        }
        config = ServiceConfig(**settings(site, **changes))
        with running_service(config) as app:
            with RankingClient(app.grpc_target, tls=Tls(**known)) as client:
                assert client.rank(question).path == "cached"
            for tls in (None, Tls(ca_file=known["ca_file"])):
                with RankingClient(app.grpc_target, tls=tls) as client:
                    with pytest.raises(UnavailableError):
                        client.rank(question)
            assert app.rest_url.startswith("https://")
            body = json.dumps({"user_id": request.user_id}).encode()
            url = app.rest_url + "/v1/rank"
            context = ssl.create_default_context(cafile=known["ca_file"])
            with pytest.raises((urllib.error.URLError, ConnectionError)):
                urllib.request.urlopen(url, body, timeout=20, context=context)
            context.load_cert_chain(
                known["certificate_file"], known["key_file"]
            )
            with urllib.request.urlopen(
                url, body, timeout=20, context=context
            ) as answer:
                assert json.load(answer)["path"]


@needs_openssl
def test_files_that_do_not_fit(tmp_path) -> None:
    pem = make_certificates(tmp_path)
    (pem / "server.key").write_bytes((pem / "client.key").read_bytes())
    file = str(ssl_config(pem, tmp_path, False))
    for path, text in ((file, "cannot be used"), ("/none", "cannot be read")):
        with pytest.raises(ValueError, match=text):
            with running_service(ServiceConfig(ssl_config_file=path)):
                pass
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ca = {"ca_file": str(tmp_path / "nowhere.pem")}
        with running_service(ServiceConfig(target_tls=ca, port=0)):
            pass
