import type { ComponentChildren } from "preact";

import type { Role } from "../base/api";
import { denied } from "../base/system";
import { setParams, withParams } from "../base/route";
import { Icon, type IconName } from "./icon";

/** The head of a screen: where it is, what it is called, what can be done. */
export function Head({
  title,
  crumbs,
  children,
  below,
}: {
  title: ComponentChildren;
  crumbs?: [label: string, href: string][];
  children?: ComponentChildren;
  below?: ComponentChildren;
}) {
  return (
    <div class="head">
      <div class="title">
        {crumbs && (
          <nav class="crumbs" aria-label="Above this page">
            <ol>
              {crumbs.map(([label, href]) => (
                <li key={href}>
                  <a href={href}>{label}</a>
                </li>
              ))}
            </ol>
          </nav>
        )}
        <h1>{title}</h1>
        {below && <div class="dim">{below}</div>}
      </div>
      {children && <div class="actions">{children}</div>}
    </div>
  );
}

export function Panel({ title, children, actions, flush }: { title?: ComponentChildren; children: ComponentChildren; actions?: ComponentChildren; flush?: boolean }) {
  return (
    <section class="panel">
      {title && (
        <header>
          <h2>{title}</h2>
          {actions}
        </header>
      )}
      {flush ? children : <div class="inside">{children}</div>}
    </section>
  );
}

/** A button that changes something: there for everybody, and with the reason why it does nothing for those who may not. */
export function Action({
  needs,
  blocked,
  icon,
  children,
  onClick,
  kind = "",
}: {
  needs: Role;
  /** Another reason why it cannot be done now. */
  blocked?: string | null;
  icon?: IconName;
  children: ComponentChildren;
  onClick: () => void;
  kind?: string;
}) {
  const why = denied(needs) ?? blocked ?? null;
  return (
    <button
      type="button"
      class={`button ${kind}`}
      aria-disabled={why === null ? undefined : "true"}
      title={why ?? undefined}
      onClick={() => {
        if (why === null) onClick();
      }}
    >
      {icon && <Icon name={icon} />}
      {children}
      {why !== null && <span class="sr"> (not possible: {why})</span>}
    </button>
  );
}

export function Segments<T extends string>({
  label,
  value,
  options,
  onChange,
}: {
  label: string;
  value: T;
  options: readonly (readonly [value: T, words: string])[];
  onChange: (value: T) => void;
}) {
  return (
    <div class="segments" role="group" aria-label={label}>
      {options.map(([each, words]) => (
        <button key={each} type="button" aria-pressed={each === value ? "true" : "false"} onClick={() => onChange(each)}>
          {words}
        </button>
      ))}
    </div>
  );
}

/** Tabs that are links: which one is open stands in the URL. */
export function Tabs<T extends string>({ label, value, options, name = "tab" }: { label: string; value: T; options: readonly (readonly [T, string])[]; name?: string }) {
  const first = options[0]?.[0];
  return (
    <nav class="tabs" aria-label={label}>
      {options.map(([each, words]) => (
        <a key={each} href={withParams({ [name]: each === first ? null : each })} aria-current={each === value ? "page" : undefined}>
          {words}
        </a>
      ))}
    </nav>
  );
}

/** A field of a filter that stands in the URL. */
export function SearchField({ name, label, placeholder, value, code }: { name: string; label: string; placeholder: string; value: string; code?: boolean }) {
  return (
    <input
      type="search"
      class={code ? "code" : ""}
      data-filter
      aria-label={label}
      placeholder={placeholder}
      value={value}
      spellcheck={false}
      autocomplete="off"
      onInput={(event) => setParams({ [name]: event.currentTarget.value })}
    />
  );
}

export function Facts({ rows }: { rows: (readonly [name: string, value: ComponentChildren] | null | false)[] }) {
  return (
    <dl class="facts">
      {rows.map(
        (row) =>
          row && (
            <>
              <dt>{row[0]}</dt>
              <dd>{row[1]}</dd>
            </>
          ),
      )}
    </dl>
  );
}

/** A cell that carries its column's name to where there are no columns. */
export function Cell({ label, num, full, children }: { label: string; num?: boolean; full?: boolean; children?: ComponentChildren }) {
  return (
    <td class={`${num ? "num" : ""} ${full ? "full" : ""}`} data-label={label}>
      {children}
    </td>
  );
}
