"""clients/web/octet.js without a browser; tests/e2e/test_browser.py has one."""

import base64
import json
import shutil
import subprocess

import pytest

from tests.integration.processes import ROOT

# The body has one piece of an answer, and never ends.
LEAVES = """
const { ask } = await import("data:text/javascript;base64,%s");
let cancelled = false;
const body = new ReadableStream({
  start: (controller) => controller.enqueue(Uint8Array.from([0, 0, 0, 0, 6, 34, 4, 18, 2, 72, 105])),
  cancel: () => { cancelled = true; },
});
globalThis.fetch = async () => ({ ok: true, headers: new Headers(), body });
const found = [];
for await (const text of ask("http://octet.test", "Hello!")) {
  found.push(text);
  break;
}
console.log(JSON.stringify([found, cancelled]));
"""


def run(script: str) -> object:
    """What a script prints, which imports the module."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    module = base64.b64encode((ROOT / "clients" / "web" / "octet.js").read_bytes()).decode()
    command = [node, "--input-type=module", "--eval", script % module]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)


def test_whoever_reads_no_further_ends_the_call() -> None:
    """Else the model would go on with an answer that nobody reads."""
    assert run(LEAVES) == [["Hi"], True]
