"""Run folders: where results lie, what their files hold, and how they are written."""
