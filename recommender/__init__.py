"""The recommender: from what the plugins measured to a size for each workload."""
