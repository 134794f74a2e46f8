// Korean: the views beside the chat.
export const ADMIN_KO = {};
