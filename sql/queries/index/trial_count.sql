SELECT count(*) FROM pg_temp.pgmeaning_trial
