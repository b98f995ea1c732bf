"""The registry client (OCI distribution spec, docker registry API v2).

client       the calls: manifests, blobs, tags, referrers, push, delete
transport    HTTP to one endpoint: redirects, authentication, retries, limits
auth         levels of authentication, without I/O;  challenge: what WWW-Authenticate says
credentials  docker's config.json and credential helpers
hosts        endpoints of a registry: mirrors, TLS material, plain http, proxies
origin       where a server may send us
manifests    what tags stand for;  blob, body: streams under limits
pages        tags and referrers;  push: uploads
faults       what refusals mean;  retry: when to try again;  limits: all the numbers
"""
