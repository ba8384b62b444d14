"""What recommender, webhook and command line share: the API types, and pure functions over raw Kubernetes objects.

Only `apiserver` does network I/O, and nothing here imports another part of the recommender.
"""
