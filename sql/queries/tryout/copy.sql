COPY pg_temp.pgmeaning_staged ({names}) FROM STDIN
