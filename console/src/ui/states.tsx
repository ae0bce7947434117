import type { ComponentChildren } from "preact";

import type { Failure } from "../base/http";
import { line } from "../base/inert";
import { moment } from "../base/format";
import type { Query } from "../base/query";
import { Icon, type IconName } from "./icon";
import { Command, Copy } from "./text";

/** The place of what is not here yet. */
export function Skeleton({ lines = 6 }: { lines?: number }) {
  return (
    <div class="skeleton" role="status" aria-label="Loading">
      {Array.from({ length: lines }, (_, index) => (
        <i key={index} />
      ))}
    </div>
  );
}

export function Blank({
  title,
  children,
  command,
  icon = "empty",
}: {
  title: string;
  children?: ComponentChildren;
  command?: string;
  icon?: IconName;
}) {
  return (
    <div class="blank">
      <Icon name={icon} size={28} />
      <h2>{title}</h2>
      {children && <div class="words">{children}</div>}
      {command && <Command text={command} />}
    </div>
  );
}

/** Why something could not be shown, and what can be done. */
export function Failed({ failure, again }: { failure: Failure; again?: () => void }) {
  const title =
    failure.status === 0
      ? "The server cannot be reached"
      : failure.status === 401
        ? "Nobody is signed in"
        : failure.status === 403
          ? "This is not allowed"
          : failure.status === 404
            ? "There is nothing here"
            : "This could not be loaded";
  const details = () => `${moment(failure.at)}\n${failure.path}\nstatus ${failure.status}\n${failure.message}\n`;
  return (
    <div class="blank" role="alert">
      <Icon name="dead" size={28} />
      <h2>{title}</h2>
      <div class="words">{line(failure.message)}</div>
      <div class="row">
        {again && (
          <button type="button" class="button" onClick={again}>
            Try again
          </button>
        )}
        <Copy text={details} label="Copy what happened, for a report" words="Copy details" />
      </div>
    </div>
  );
}

/** Draws an answer when it is there, and otherwise why it is not. What was seen stays when a later question fails. */
export function Ready<T>({
  query,
  lines,
  children,
}: {
  query: Query<T>;
  lines?: number;
  children: (data: T) => ComponentChildren;
}): preact.JSX.Element {
  if (query.data !== undefined) {
    return (
      <>
        {query.error && !query.error.unreachable && (
          <p class="callout tone-warn small" role="status">
            <Icon name="dead" />
            <span>
              This is from {moment(query.at ?? 0)}. Asking again failed: {line(query.error.message)}
            </span>
          </p>
        )}
        {children(query.data)}
      </>
    );
  }
  if (query.error) return <Failed failure={query.error} again={query.again} />;
  return <Skeleton {...(lines === undefined ? {} : { lines })} />;
}
