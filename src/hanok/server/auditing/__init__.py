"""What the server writes into the audit: changes before they are acknowledged, requests without waiting."""
