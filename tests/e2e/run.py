"""Runs every end-to-end test; the last line is the count. A test that is skipped or fails to load counts as failed.

    python tests/e2e/run.py                                      # all
    python tests/e2e/run.py test_operation.Reload                # some, as unittest names them
    python tests/e2e/run.py --count FILE                         # the count goes to FILE instead, for whoever prints it later
"""

import argparse
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from world import artifacts, binary

    print(f"gate: {binary()}\nscreenshots and logs: {artifacts()}\n", flush=True)
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromNames(arguments.names) if arguments.names else loader.discover(str(HERE))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    # a test with several failed parts is one test
    bad = {test.id().split(" ")[0] for test, _ in result.failures + result.errors + result.skipped}
    bad |= {test.id() for test in result.unexpectedSuccesses} | {test.id() for test, _ in result.expectedFailures}
    passed = result.testsRun - len(bad)
    count = f"{max(passed, 0)} passed, {len(bad)} failed"
    if arguments.count and not bad:
        arguments.count.write_text(f"{count}\n")
    else:
        print(f"\n{count}", flush=True)
    return 0 if passed > 0 and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
