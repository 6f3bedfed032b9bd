import "@fontsource-variable/inter/wght.css";
import "./ui/theme.css";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { ApiError } from "./api/client";
import { router } from "./app/router";
import { SessionGate } from "./app/SessionGate";
import { Provider } from "./ui/Provider";

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 5_000,
      // Asking again helps when the hub is away, not when it said no.
      retry: (failures, error) => failures < 3 && error instanceof ApiError && (error.status === 0 || error.status >= 500),
    },
  },
});

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Provider>
      <QueryClientProvider client={queries}>
        <SessionGate>
          <RouterProvider router={router} />
        </SessionGate>
      </QueryClientProvider>
    </Provider>
  </StrictMode>,
);
