"""Python's azure-identity against the token endpoint: secret, projected token, and a wrong secret. MSAL has its own way to find the endpoint."""

import os
import sys

from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientSecretCredential, WorkloadIdentityCredential

TENANT = "11111111-1111-4111-8111-111111111111"
CLIENT = "33333333-3333-4333-8333-333333333333"
SCOPE = "https://management.azure.com/.default"
options = {
    "authority": os.environ["ARM_URL"],
    "disable_instance_discovery": True,
    "connection_verify": os.environ["SSL_CERT_FILE"],
    "retry_total": 0,
}

assert ClientSecretCredential(TENANT, CLIENT, "sandbox", **options).get_token(SCOPE).token
token_file = os.path.join(os.environ["WORK"], "token.jwt")
assert WorkloadIdentityCredential(tenant_id=TENANT, client_id=CLIENT, token_file_path=token_file, **options).get_token(SCOPE).token
try:
    ClientSecretCredential(TENANT, CLIENT, "wrong", **options).get_token(SCOPE)
except ClientAuthenticationError as error:
    if "AADSTS7000215" not in str(error):
        sys.exit(f"identity.py: {error}")
else:
    sys.exit("identity.py: a wrong secret was let through")
