/** A failed delivery as a test in Python, to be pasted beside the service's other tests. */

import type { Letter } from "./api";

/** Bytes as a literal of Python that any encoding carries. */
export function bytesLiteral(data: Uint8Array): string {
  let text = "";
  for (const byte of data) {
    if (byte === 0x22 || byte === 0x5c) text += `\\${String.fromCharCode(byte)}`;
    else if (byte >= 0x20 && byte < 0x7f) text += String.fromCharCode(byte);
    else text += `\\x${byte.toString(16).padStart(2, "0")}`;
  }
  return `b"${text}"`;
}

/** The class that the contract's schema is of, as far as that can be told; a name in its style otherwise. */
export function className(letter: Letter): string {
  const ref = letter.contract?.schema["$ref"];
  const named = typeof ref === "string" ? (ref.split("/").at(-1) ?? "") : String(letter.contract?.schema["title"] ?? "");
  if (/^[A-Za-z_]\w*$/.test(named)) return named;
  const made = letter.type
    .split(/[^A-Za-z0-9]+/)
    .filter(Boolean)
    .map((part) => part.charAt(0).toUpperCase() + part.slice(1))
    .join("");
  return /^[A-Za-z]/.test(made) ? made : `Event${made}`;
}

const safe = (text: string) => text.toLowerCase().replace(/[^a-z0-9]+/g, "_").replace(/^_+|_+$/g, "") || "event";
const comment = (text: string) => text.replace(/[^\x20-\x7e]/g, "?").slice(0, 120);

export function asTest(letter: Letter, data: Uint8Array): string {
  const name = className(letter);
  const module_ = safe(letter.group.split(".")[0] ?? "service");
  return `import msgspec
from millstream.testing import TestApp

from ${module_} import ${name}, app  # adapt: where your App and its contracts are

# ${comment(letter.type)} ${comment(letter.id)}: ${comment(letter.error || letter.reason)}
BODY = ${bytesLiteral(data)}


async def test_${safe(letter.handler)}_handles_${safe(letter.type)}_${safe(letter.key ?? letter.id).slice(-12).replace(/^_+/, "")}() -> None:
    async with TestApp(app) as test:
        await test.publish(msgspec.json.decode(BODY, type=${name}))

        assert test.failures == []
        assert test.dead_letters == []
`;
}
