import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useId, useRef, useState } from "preact/hooks";

import type { OperationRequest } from "../base/api";
import { Failure, post } from "../base/http";
import { line } from "../base/inert";
import { trayOpen } from "../base/keys";
import { announce } from "../base/live";
import { refresh } from "../base/query";
import { Dialog } from "./dialog";
import { Icon } from "./icon";
import { Foreign } from "./text";

/** Operations that were asked for from this page. */
export const mine = signal<string[]>([]);

/** Ask for an operation; it goes on by itself, and is shown in the tray. */
export async function operate(request: OperationRequest): Promise<string> {
  const { id } = await post<{ id: string }>("/api/operations", request);
  mine.value = [id, ...mine.value].slice(0, 50);
  trayOpen.value = true;
  announce(`Sent: ${request.kind} ${line(request.group)}`);
  refresh();
  return id;
}

export interface Asking {
  title: string;
  /** What will happen, exactly. */
  effect: ComponentChildren;
  /** On the button. */
  verb: string;
  request: OperationRequest;
  reason: "none" | "optional" | "required";
  /** Cannot be undone: this has to be typed. */
  confirm?: string;
  danger?: boolean;
  done?: (id: string) => void;
}

/** A sheet that says what will happen before it does. */
export function OperationSheet({ asking, onClose }: { asking: Asking; onClose: () => void }) {
  const [reason, setReason] = useState("");
  const [typed, setTyped] = useState("");
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState("");
  const sent = useRef(false);
  const reasonId = useId();
  const confirmId = useId();
  const ready = (asking.reason !== "required" || reason.trim()) && (!asking.confirm || typed === asking.confirm);

  const submit = async () => {
    if (!ready || sent.current) return;
    sent.current = true;
    setBusy(true);
    setFailure("");
    try {
      const id = await operate({ ...asking.request, reason: reason.trim() });
      onClose();
      asking.done?.(id);
    } catch (error) {
      sent.current = false;
      setBusy(false);
      setFailure(error instanceof Failure ? error.message : String(error));
    }
  };

  return (
    <Dialog
      title={asking.title}
      onClose={onClose}
      footer={
        <>
          <button type="button" class="button" autofocus={asking.reason === "none"} onClick={onClose}>
            Cancel
          </button>
          <button type="button" class={`button primary ${asking.danger ? "danger" : ""}`} disabled={!ready || busy} onClick={() => void submit()}>
            {busy ? "Sending…" : asking.verb}
          </button>
        </>
      }
    >
      <div>{asking.effect}</div>
      {asking.reason !== "none" && (
        <div class="field">
          <label for={reasonId}>Reason{asking.reason === "required" ? "" : " (optional)"}</label>
          <input
            id={reasonId}
            type="text"
            autofocus
            maxLength={500}
            autocomplete="off"
            required={asking.reason === "required"}
            value={reason}
            onInput={(event) => setReason(event.currentTarget.value)}
            onKeyDown={(event) => {
              if (event.key === "Enter" && !asking.confirm) void submit();
            }}
          />
          <span class="hint">Kept with the operation, for everybody to see.</span>
        </div>
      )}
      {asking.confirm && (
        <div class="field">
          <label for={confirmId}>
            This cannot be undone. Type <Foreign text={asking.confirm} mono /> to go on
          </label>
          <input id={confirmId} type="text" autocomplete="off" spellcheck={false} value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />
        </div>
      )}
      {failure && (
        <p class="problems" role="alert">
          <Icon name="dead" /> {line(failure)}
        </p>
      )}
    </Dialog>
  );
}
