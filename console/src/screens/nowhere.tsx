import type { Failure } from "../base/http";
import { line } from "../base/inert";
import { path } from "../base/route";
import { Wheel } from "../ui/icon";
import { Head, Panel } from "../ui/parts";
import { Blank } from "../ui/states";

export function NowhereScreen() {
  return (
    <>
      <Head title="There is no such page" />
      <Panel flush>
        <Blank title="Nothing is here" icon="search">
          <p>
            Nothing is at <bdi class="mono">{line(path.value)}</bdi>. <a href="/">Go to the overview</a>, or press <kbd>Ctrl K</kbd>.
          </p>
        </Blank>
      </Panel>
    </>
  );
}

/** Before anybody is let in. */
export function SignedOut({ failure }: { failure: Failure }) {
  return (
    <main style={{ display: "grid", placeItems: "center", minHeight: "100dvh" }}>
      <div class="blank" role="alert">
        <Wheel size={40} />
        <h1>{failure.unreachable ? "The console's server cannot be reached" : "Nobody is signed in"}</h1>
        <div class="words">
          {failure.unreachable ? (
            <p>It may be starting, or have been stopped. This page goes on trying.</p>
          ) : (
            <>
              <p>{line(failure.message)}</p>
              <p style={{ marginTop: "8px" }}>
                <code>millstream console</code> prints an address that works once and signs this browser in.
              </p>
            </>
          )}
        </div>
      </div>
    </main>
  );
}
