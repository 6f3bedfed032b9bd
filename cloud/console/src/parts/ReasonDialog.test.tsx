import { cleanup, render, screen, waitFor } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { afterEach, beforeAll, expect, it, vi } from "vitest";
import { ApiError } from "../api/client";
import { Provider } from "../ui/Provider";
import { ReasonDialog } from "./ReasonDialog";

beforeAll(() => {
  // jsdom lacks what the kit asks of a browser.
  window.matchMedia = (query) => ({ matches: false, media: query, addEventListener() {}, removeEventListener() {}, addListener() {}, removeListener() {}, onchange: null, dispatchEvent: () => false });
  window.ResizeObserver = class {
    observe() {}
    unobserve() {}
    disconnect() {}
  };
});
afterEach(cleanup);

const show = (run: (reason: string) => Promise<unknown>, onClose = () => {}) =>
  render(
    <Provider>
      <ReasonDialog action={{ title: "Abort r-12", effect: "Devices return.", button: "Abort rollout", danger: true, run }} onClose={onClose} />
    </Provider>,
  );

it("does nothing without a reason, and not for blanks either", async () => {
  const run = vi.fn(async () => {});
  show(run);
  await userEvent.type(await screen.findByLabelText(/Reason/), "   ");
  await userEvent.click(screen.getByRole("button", { name: "Abort rollout" }));
  expect(run).not.toHaveBeenCalled();
});

it("hands on the reason and closes", async () => {
  const run = vi.fn(async () => {});
  const close = vi.fn();
  show(run, close);
  await userEvent.type(await screen.findByLabelText(/Reason/), "line 4 is serviced today");
  await userEvent.click(screen.getByRole("button", { name: "Abort rollout" }));
  await waitFor(() => expect(close).toHaveBeenCalledOnce());
  expect(run).toHaveBeenCalledWith("line 4 is serviced today");
});

it("stays open and says why the hub refused", async () => {
  const close = vi.fn();
  show(async () => {
    throw new ApiError(409, { detail: "the rollout has ended" });
  }, close);
  await userEvent.type(await screen.findByLabelText(/Reason/), "too late");
  await userEvent.click(screen.getByRole("button", { name: "Abort rollout" }));
  expect(await screen.findByText(/the rollout has ended/)).toBeTruthy();
  expect(close).not.toHaveBeenCalled();
});
