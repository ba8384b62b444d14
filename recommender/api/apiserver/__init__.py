"""The API server: how it is reached, and how objects on it are followed.

Webhook and recommender speak raw JSON with it. The package `kubernetes` gives the credentials and the transport; its
informer is not used, because it carries no custom resources, does not page and notices no silence.
"""
