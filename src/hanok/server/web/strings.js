// Every word of the page, in both languages; a file a language and part.
import { ADMIN_EN } from "/strings/admin-en.js";
import { ADMIN_KO } from "/strings/admin-ko.js";
import { EN } from "/strings/en.js";
import { KO } from "/strings/ko.js";

export const STRINGS = { ko: { ...KO, ...ADMIN_KO }, en: { ...EN, ...ADMIN_EN } };
