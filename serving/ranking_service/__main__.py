"""``python -m serving.ranking_service``: runs the ranking service.

The argument is a JSON object with fields of `ServiceConfig`.
"""

import sys

from serving.ranking_service.app import run_until_signal
from serving.ranking_service.config import ServiceConfig
from serving.ranking_service.records import log_to_stderr

if __name__ == "__main__":
    text = sys.argv[1] if len(sys.argv) > 1 else "{}"
    log_to_stderr()
    run_until_signal(ServiceConfig.model_validate_json(text))
