/** The JSON Schemas of contracts: what they ask for, whether a text keeps to it, and a first example. */

import { Validator, type OutputUnit, type Schema } from "@cfworker/json-schema";

import type { JsonSchema } from "./api";
import { type Draft, NULL } from "./draft";

export interface Problem {
  /** Which field, as `lines.0.quantity`; empty for the whole. */
  where: string;
  what: string;
}

/** A property of a contract, as a table shows it. */
export interface Property {
  name: string;
  depth: number;
  type: string;
  required: boolean;
  description: string;
  fallback: string | null;
}

export type FieldKind = "object" | "array" | "string" | "integer" | "number" | "boolean" | "choice" | "any";

export interface Shape {
  kind: FieldKind;
  schema: JsonSchema;
  /** Whether null is allowed, too. */
  nullable: boolean;
  choices: unknown[];
  format: string | null;
  title: string;
}

const WRAPPERS = new Set(["$ref", "properties", "items", "prefixItems", "additionalProperties", "allOf", "anyOf", "oneOf", "if"]);
const DEEPEST = 12;

/** Everything that is wrong with a text; nothing, when it can be sent. */
export function problems(text: string, schema: JsonSchema | null): Problem[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return [{ where: "", what: `This is no JSON: ${(error as Error).message}` }];
  }
  if (schema === null) return [];
  let units: OutputUnit[];
  try {
    units = new Validator(schema as Schema, "2020-12", false).validate(value).errors;
  } catch (error) {
    return [{ where: "", what: `The contract's schema cannot be applied: ${(error as Error).message}` }];
  }
  const telling = units.filter((unit) => !WRAPPERS.has(unit.keyword));
  const found = (telling.length ? telling : units).map((unit) => ({ where: pointer(unit.instanceLocation), what: unit.error }));
  return found.filter((one, index) => found.findIndex((other) => other.where === one.where && other.what === one.what) === index);
}

function pointer(location: string): string {
  return location
    .replace(/^#\/?/, "")
    .split("/")
    .map((part) => decodeURIComponent(part).replace(/~1/g, "/").replace(/~0/g, "~"))
    .join(".");
}

/** A schema with its references followed; what refers to itself for ever accepts anything. */
export function resolve(schema: unknown, whole: JsonSchema): JsonSchema {
  let found = schema;
  for (let step = 0; step < 20; step++) {
    if (typeof found !== "object" || found === null) return {};
    const ref = (found as JsonSchema)["$ref"];
    if (typeof ref !== "string") return found as JsonSchema;
    if (!ref.startsWith("#/")) return {};
    found = ref
      .slice(2)
      .split("/")
      .reduce<unknown>((at, part) => (at as JsonSchema | undefined)?.[decodeURIComponent(part)], whole);
  }
  return {};
}

function alternatives(schema: JsonSchema): unknown[] {
  const found = schema["anyOf"] ?? schema["oneOf"];
  return Array.isArray(found) ? found : [];
}

/** What a form draws for a schema. */
export function shape(given: unknown, whole: JsonSchema): Shape {
  let schema = resolve(given, whole);
  let nullable = false;
  const several = alternatives(schema);
  if (several.length) {
    const others = several.map((each) => resolve(each, whole)).filter((each) => each["type"] !== "null");
    nullable = others.length < several.length;
    if (others.length === 1) schema = { ...schema, ...others[0] };
    else return { kind: "any", schema, nullable, choices: [], format: null, title: title(schema) };
  }
  let type = schema["type"];
  if (Array.isArray(type)) {
    nullable ||= type.includes("null");
    const others = type.filter((each) => each !== "null");
    type = others.length === 1 ? others[0] : undefined;
  }
  const format = typeof schema["format"] === "string" ? schema["format"] : null;
  const base = { schema, nullable, format, title: title(schema) };
  if (Array.isArray(schema["enum"])) return { ...base, kind: "choice", choices: schema["enum"] };
  if ("const" in schema) return { ...base, kind: "choice", choices: [schema["const"]] };
  if (type === "object" && isRecord(schema["properties"])) return { ...base, kind: "object", choices: [] };
  if (type === "array" && isRecord(schema["items"])) return { ...base, kind: "array", choices: [] };
  if (type === "string" || type === "integer" || type === "number" || type === "boolean") return { ...base, kind: type, choices: [] };
  return { ...base, kind: "any", choices: [] };
}

function title(schema: JsonSchema): string {
  return typeof schema["title"] === "string" ? schema["title"] : "";
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The names and schemas of an object's properties, and which of them have to be there. */
export function propertiesOf(schema: JsonSchema): { name: string; schema: unknown; required: boolean }[] {
  const all = isRecord(schema["properties"]) ? schema["properties"] : {};
  const required = Array.isArray(schema["required"]) ? schema["required"] : [];
  return Object.entries(all).map(([name, each]) => ({ name, schema: each, required: required.includes(name) }));
}

/** A type in a word or two. */
export function typeName(given: unknown, whole: JsonSchema, depth = 0): string {
  const found = shape(given, whole);
  const name = () => {
    switch (found.kind) {
      case "array":
        return `list of ${depth < 3 ? typeName(found.schema["items"], whole, depth + 1) : "…"}`;
      case "choice":
        return found.choices.map((choice) => JSON.stringify(choice)).join(" | ");
      case "object":
        return found.title || "object";
      case "any": {
        const several = alternatives(found.schema);
        return several.length && depth < 3 ? several.map((each) => typeName(each, whole, depth + 1)).join(" | ") : "any";
      }
      default:
        return found.format ?? found.kind;
    }
  };
  return found.nullable ? `${name()} | null` : name();
}

/** All properties, those of nested objects below theirs. */
export function fields(whole: JsonSchema): Property[] {
  const found: Property[] = [];
  const walk = (given: unknown, depth: number, prefix: string) => {
    if (depth > DEEPEST) return;
    const at = shape(given, whole);
    if (at.kind === "array") return walk(at.schema["items"], depth, `${prefix}[].`);
    if (at.kind !== "object") return undefined;
    for (const property of propertiesOf(at.schema)) {
      const own = resolve(property.schema, whole);
      const inner = shape(property.schema, whole);
      found.push({
        name: prefix + property.name,
        depth,
        type: typeName(property.schema, whole),
        required: property.required,
        description: String((property.schema as JsonSchema)["description"] ?? own["description"] ?? ""),
        fallback: "default" in own ? JSON.stringify(own["default"]) : null,
      });
      const next = inner.kind === "array" ? `${prefix}${property.name}` : `${prefix}${property.name}.`;
      if (depth < 4) walk(property.schema, depth + 1, next);
    }
    return undefined;
  };
  walk(whole, 0, "");
  return found;
}

/** An example to start from. */
export function example(given: unknown, whole: JsonSchema, name = "", depth = 0): Draft {
  const found = shape(given, whole);
  const { schema } = found;
  const shown = Array.isArray(schema["examples"]) ? schema["examples"][0] : undefined;
  const literal = shown ?? schema["default"];
  if (literal !== undefined && !(isRecord(literal) && !Object.keys(literal).length)) return fromValue(literal);
  if (depth > DEEPEST) return NULL;
  switch (found.kind) {
    case "object":
      return {
        kind: "object",
        fields: propertiesOf(schema)
          .filter((property) => property.required || depth === 0)
          .map((property) => [property.name, example(property.schema, whole, property.name, depth + 1)]),
      };
    case "array":
      return { kind: "array", items: [example(schema["items"], whole, name, depth + 1)] };
    case "choice":
      return fromValue(found.choices[0]);
    case "string":
      return { kind: "string", value: text(found, name) };
    case "integer":
    case "number":
      return { kind: "raw", text: String(schema["minimum"] ?? 1) };
    case "boolean":
      return { kind: "raw", text: "false" };
    case "any": {
      const [first] = alternatives(schema);
      return found.nullable || first === undefined ? NULL : example(first, whole, name, depth + 1);
    }
  }
}

function text(found: Shape, name: string): string {
  const now = new Date().toISOString();
  switch (found.format) {
    case "date-time":
      return now;
    case "date":
      return now.slice(0, 10);
    case "time":
      return now.slice(11, 19);
    case "duration":
      return "PT1M";
    case "decimal":
      return "1.00";
    case "uuid":
      return "00000000-0000-4000-8000-000000000001";
    default:
      if (/(^|_)(at|time|timestamp)$/i.test(name)) return now;
      if (/(^|_)(date|day)$/i.test(name)) return now.slice(0, 10);
      if (/mail/i.test(name)) return "ana@example.com";
      if (/(^|_)id$/i.test(name)) return `${name.replace(/_?id$/i, "").slice(0, 8) || "id"}-1`;
      return name ? name.replace(/_/g, " ") : "text";
  }
}

function fromValue(value: unknown): Draft {
  if (typeof value === "string") return { kind: "string", value };
  if (Array.isArray(value)) return { kind: "array", items: value.map(fromValue) };
  if (isRecord(value)) return { kind: "object", fields: Object.entries(value).map(([name, each]) => [name, fromValue(each)]) };
  return { kind: "raw", text: JSON.stringify(value) ?? "null" };
}
