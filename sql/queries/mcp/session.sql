-- What an agent's session may take, for as long as it lasts; and as whom it asks.
SELECT set_config('statement_timeout', %(milliseconds)s::text, false),
       set_config('idle_in_transaction_session_timeout', '60s', false),
       set_config('application_name', 'pgmeaning mcp', false),
       CASE WHEN %(role)s::text IS NOT NULL THEN set_config('role', %(role)s::text, false) END
