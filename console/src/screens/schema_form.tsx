import type { JsonSchema } from "../base/api";
import { type Draft, draftOf, field, NULL, textOf, withField } from "../base/draft";
import { line } from "../base/inert";
import { example, propertiesOf, type Shape, shape, typeName } from "../base/schema";
import { Icon } from "../ui/icon";

const DEEPEST = 8;

/** A form for a draft, as its schema says. What the schema does not describe can be written as JSON. */
export function SchemaForm({ schema, draft, onChange }: { schema: JsonSchema; draft: Draft; onChange: (draft: Draft) => void }) {
  const found = shape(schema, schema);
  return (
    <div class="form-list">
      <Value whole={schema} schema={schema} found={found} draft={draft} id="field" onChange={(next) => onChange(next ?? NULL)} depth={0} name="" />
    </div>
  );
}

interface Props {
  whole: JsonSchema;
  schema: unknown;
  found: Shape;
  draft: Draft | undefined;
  id: string;
  name: string;
  depth: number;
  onChange: (draft: Draft | undefined) => void;
}

function Value(props: Props) {
  const { found, draft } = props;
  if (props.depth > DEEPEST) return <Json {...props} />;
  if (found.kind === "object" && (draft === undefined || draft.kind === "object")) return <ObjectFields {...props} />;
  if (found.kind === "array" && (draft === undefined || draft.kind === "array")) return <ArrayItems {...props} />;
  if (found.kind === "choice") return <Choice {...props} />;
  if (found.kind === "boolean") return <Yes {...props} />;
  if (found.kind === "string" && (draft === undefined || draft.kind === "string")) return <Text {...props} />;
  if ((found.kind === "integer" || found.kind === "number") && draft?.kind !== "object" && draft?.kind !== "array") return <Numeral {...props} />;
  return <Json {...props} />;
}

function ObjectFields({ whole, found, draft, id, depth, onChange }: Props) {
  const inner = propertiesOf(found.schema).map((property) => {
    const at = shape(property.schema, whole);
    const value = field(draft, property.name);
    const place = `${id}-${property.name}`;
    const description = (property.schema as JsonSchema)["description"] ?? at.schema["description"];
    const set = (next: Draft | undefined) => onChange(withField(draft, property.name, next));
    const isNull = value?.kind === "raw" && value.text === "null";
    const nested = at.kind === "object" || at.kind === "array";
    return (
      <div class="field" key={property.name}>
        {nested ? (
          <span class="label" id={`${place}-label`}>
            <Name name={property.name} required={property.required} type={typeName(property.schema, whole)} />
          </span>
        ) : (
          <label for={place}>
            <Name name={property.name} required={property.required} type={typeName(property.schema, whole)} />
          </label>
        )}
        <div class="row top">
          <div style={{ flex: "1 1 auto", minWidth: 0 }}>
            {value === undefined ? (
              <span class="faint small">left out</span>
            ) : isNull && at.kind !== "any" ? (
              <span class="faint small">null</span>
            ) : (
              <Value whole={whole} schema={property.schema} found={at} draft={value} id={place} name={property.name} depth={depth + 1} onChange={set} />
            )}
          </div>
          {at.nullable && (
            <button type="button" class="button tiny" aria-pressed={isNull ? "true" : "false"} onClick={() => set(isNull ? example({ ...at.schema }, whole, property.name, 1) : NULL)}>
              null
            </button>
          )}
          {!property.required && (
            <button type="button" class="button tiny" onClick={() => set(value === undefined ? example(property.schema, whole, property.name, 1) : undefined)}>
              {value === undefined ? "Add" : "Leave out"}
            </button>
          )}
        </div>
        {typeof description === "string" && <span class="hint">{line(description)}</span>}
      </div>
    );
  });
  return depth === 0 ? <>{inner}</> : <div class="form-group">{inner}</div>;
}

function Name({ name, required, type }: { name: string; required: boolean; type: string }) {
  return (
    <>
      <bdi>{line(name)}</bdi>
      <span class="faint">
        {" "}
        {line(type)}
        {required ? "" : ", optional"}
      </span>
    </>
  );
}

function ArrayItems({ whole, found, draft, id, depth, name, onChange }: Props) {
  const items = draft?.kind === "array" ? draft.items : [];
  const inner = found.schema["items"];
  const at = shape(inner, whole);
  const set = (index: number, next: Draft | undefined) =>
    onChange({ kind: "array", items: next === undefined ? items.filter((_, each) => each !== index) : items.map((item, each) => (each === index ? next : item)) });
  return (
    <div class="form-group" role="group" aria-labelledby={`${id}-label`}>
      {items.map((item, index) => (
        <div class="row top" key={index} style={{ flexWrap: "nowrap" }}>
          <span class="faint small" style={{ minWidth: "20px", paddingTop: "6px" }}>
            {index + 1}
          </span>
          <div style={{ flex: 1, minWidth: 0 }}>
            <Value whole={whole} schema={inner} found={at} draft={item} id={`${id}-${index}`} name={name} depth={depth + 1} onChange={(next) => set(index, next ?? NULL)} />
          </div>
          <button type="button" class="button plain tiny icon" aria-label={`Take out item ${index + 1} of ${name}`} onClick={() => set(index, undefined)}>
            <Icon name="trash" size={14} />
          </button>
        </div>
      ))}
      <div>
        <button type="button" class="button tiny" onClick={() => onChange({ kind: "array", items: [...items, example(inner, whole, name, 1)] })}>
          <Icon name="plus" size={12} /> Add one
        </button>
      </div>
    </div>
  );
}

function Choice({ found, draft, id, name, onChange }: Props) {
  const now = draft === undefined ? "" : textOf(draft);
  return (
    <select id={id} aria-label={name || undefined} value={now} onChange={(event) => onChange(draftOf(event.currentTarget.value))}>
      {!found.choices.some((choice) => JSON.stringify(choice) === now) && <option value={now}>{now}</option>}
      {found.choices.map((choice) => (
        <option key={JSON.stringify(choice)} value={JSON.stringify(choice)}>
          {typeof choice === "string" ? line(choice) : JSON.stringify(choice)}
        </option>
      ))}
    </select>
  );
}

function Yes({ draft, id, onChange }: Props) {
  const on = draft?.kind === "raw" && draft.text === "true";
  return <input id={id} type="checkbox" checked={on} onChange={(event) => onChange({ kind: "raw", text: event.currentTarget.checked ? "true" : "false" })} />;
}

function Text({ draft, id, name, onChange }: Props) {
  const value = draft?.kind === "string" ? draft.value : "";
  const long = value.length > 80 || value.includes("\n");
  const shared = { id, "aria-label": name || undefined, value, spellcheck: false, autocomplete: "off" } as const;
  return long ? (
    <textarea class="code" rows={Math.min(10, value.split("\n").length + 1)} {...shared} onInput={(event) => onChange({ kind: "string", value: event.currentTarget.value })} />
  ) : (
    <input type="text" style={{ width: "min(420px, 100%)" }} {...shared} onInput={(event) => onChange({ kind: "string", value: event.currentTarget.value })} />
  );
}

const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

/** A number is written as text: no browser rounds it then. */
function Numeral({ draft, id, name, found, onChange }: Props) {
  const value = draft?.kind === "raw" ? draft.text : draft?.kind === "string" ? draft.value : "";
  const wrong = !NUMBER.test(value);
  return (
    <input
      id={id}
      type="text"
      inputMode={found.kind === "integer" ? "numeric" : "decimal"}
      aria-label={name || undefined}
      aria-invalid={wrong ? "true" : undefined}
      autocomplete="off"
      value={value}
      onInput={(event) => {
        const text = event.currentTarget.value.trim();
        // What is no number is kept as text, so that the contract's check names it.
        onChange(NUMBER.test(text) ? { kind: "raw", text } : { kind: "string", value: text });
      }}
    />
  );
}

/** A part for which there is no form. */
function Json({ draft, id, name, onChange }: Props) {
  const value = draft === undefined ? "" : textOf(draft);
  return (
    <textarea
      id={id}
      class="code"
      rows={Math.min(10, value.split("\n").length + 1)}
      aria-label={name || "JSON"}
      spellcheck={false}
      defaultValue={value}
      onChange={(event) => {
        try {
          JSON.parse(event.currentTarget.value);
          onChange(draftOf(event.currentTarget.value));
          event.currentTarget.removeAttribute("aria-invalid");
        } catch {
          event.currentTarget.setAttribute("aria-invalid", "true");
        }
      }}
    />
  );
}
