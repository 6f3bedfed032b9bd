// The part of js-yaml that the console uses; the package brings no types.
declare module "js-yaml" {
  interface Schema {
    readonly __schema: unique symbol;
  }
  export const JSON_SCHEMA: Schema;
  export function load(text: string, options: { schema: Schema }): unknown;
  export function dump(value: unknown, options: { schema: Schema; lineWidth: number; noRefs: boolean; flowLevel: number }): string;
}
