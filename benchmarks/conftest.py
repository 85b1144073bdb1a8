"""Timed tests are collected only on demand; plain `pytest` of the project must not run, nor list, any."""


def pytest_ignore_collect(collection_path, config):
    return True if collection_path.name.startswith("test_") and not config.getoption("benchmark_only", False) else None
