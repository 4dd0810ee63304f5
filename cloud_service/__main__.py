"""`python -m cloud_service` is `edgeloop`."""

import sys

from cloud_service.cli import main

sys.exit(main())
