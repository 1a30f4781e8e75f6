"""Runs every end-to-end test; the last line is the count. A test that is skipped or fails to load counts as failed.

    python tests/e2e/run.py                                      # all
    python tests/e2e/run.py test_operation.Reload                # some, as unittest names them
"""

import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent


def main():
    sys.path.insert(0, str(HERE))
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromNames(sys.argv[1:]) if sys.argv[1:] else loader.discover(str(HERE))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    # a test with several failed parts is one test
    bad = {test.id().split(" ")[0] for test, _ in result.failures + result.errors + result.skipped}
    bad |= {test.id() for test in result.unexpectedSuccesses} | {test.id() for test, _ in result.expectedFailures}
    passed = result.testsRun - len(bad)
    print(f"\n{max(passed, 0)} passed, {len(bad)} failed", flush=True)
    return 0 if passed > 0 and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
