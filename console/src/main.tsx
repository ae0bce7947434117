import { render } from "preact";

import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/shell.css";
import "./styles/parts.css";
import "./styles/trace.css";
import "./styles/map.css";
import { App } from "./app";
import { startKeys } from "./base/keys";
import { startRouting } from "./base/route";
import { startTheme } from "./base/settings";
import { startClock } from "./base/time";

startTheme();
startRouting();
startKeys();
startClock();
render(<App />, document.getElementById("root") as HTMLElement);
