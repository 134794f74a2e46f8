// English: the views beside the chat.
export const ADMIN_EN = {};
