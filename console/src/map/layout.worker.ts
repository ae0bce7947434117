import { layOut, type LayoutRequest } from "./layout";

addEventListener("message", (event: MessageEvent<{ number: number; request: LayoutRequest }>) => {
  const { number, request } = event.data;
  try {
    postMessage({ number, layout: layOut(request) });
  } catch (error) {
    postMessage({ number, error: String(error) });
  }
});
