// Who a browser is: a signed cookie, set by the login page.

import { createHmac, timingSafeEqual } from "node:crypto";

export const COOKIE = "chat_user";
const SECRET = process.env.CHAT_SECRET ?? "only for trying it out";

export function sign(user) {
  return `${user}.${createHmac("sha256", SECRET).update(user).digest("hex")}`;
}

/** The user that a `Cookie` header names, or undefined. */
export function userOf(cookies = "") {
  const pairs = cookies.split(";").map((pair) => pair.trim().split("="));
  const [, value = ""] = pairs.find(([name]) => name === COOKIE) ?? [];
  const user = value.slice(0, value.lastIndexOf("."));
  const expected = Buffer.from(sign(user));
  const given = Buffer.from(value);
  return user && given.length === expected.length && timingSafeEqual(given, expected) ? user : undefined;
}
