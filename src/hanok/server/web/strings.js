// Every word of the page, in both languages; a file a language and part.
import { ADMIN_EN } from "/strings/admin-en.js";
import { ADMIN_KO } from "/strings/admin-ko.js";
import { EN } from "/strings/en.js";
import { GUARD_EN } from "/strings/guard-en.js";
import { GUARD_KO } from "/strings/guard-ko.js";
import { KO } from "/strings/ko.js";
import { LOOP_EN } from "/strings/loop-en.js";
import { LOOP_KO } from "/strings/loop-ko.js";

export const STRINGS = { ko: { ...KO, ...ADMIN_KO, ...GUARD_KO, ...LOOP_KO }, en: { ...EN, ...ADMIN_EN, ...GUARD_EN, ...LOOP_EN } };
